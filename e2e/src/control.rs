//! The receiver's control port, from the other side.

use anyhow::{Context, Result};

use crate::{
    behaviour::Behaviour,
    record::{Count, Record},
};

/// A receiver that is somewhere else.
#[derive(Clone, Debug)]
pub struct Control {
    base: String,
    http: reqwest::Client,
}

impl Control {
    /// The receiver whose control port is at `base`, such as `http://127.0.0.1:8081`.
    pub fn new(base: impl Into<String>) -> Result<Self> {
        // reqwest is built without a provider of its own, and asks for one even if it never sees an https URL. An error
        // says that somebody else has installed one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A connection through a port-forward may be a dead one after a rest: a new one each time.
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build()?;
        Ok(Self { base: base.into(), http })
    }

    /// Where the control port is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Every record with a number above `seq`, oldest first.
    pub async fn since(&self, mut seq: u64) -> Result<Vec<Record>> {
        let mut all = Vec::new();
        loop {
            let url = format!("{}/records?since={seq}", self.base);
            let answer = self.http.get(&url).send().await?.error_for_status()?.bytes().await?;
            let page: Vec<Record> = serde_json::from_slice(&answer).context("failed to read records")?;
            let Some(last) = page.last() else { return Ok(all) };
            seq = last.seq;
            all.extend(page);
        }
    }

    /// How many requests there were.
    pub async fn count(&self) -> Result<Count> {
        let answer = self.http.get(format!("{}/count", self.base)).send().await?.error_for_status()?.bytes().await?;
        serde_json::from_slice(&answer).context("failed to read the count")
    }

    /// Tells it how to answer from now on.
    pub async fn behave(&self, behaviour: &Behaviour) -> Result<()> {
        let body = serde_json::to_vec(behaviour)?;
        let request = self.http.put(format!("{}/behaviour", self.base)).header("content-type", "application/json");
        request.body(body).send().await?.error_for_status()?;
        Ok(())
    }

    /// Forgets every record.
    pub async fn clear(&self) -> Result<()> {
        self.http.delete(format!("{}/records", self.base)).send().await?.error_for_status()?;
        Ok(())
    }
}
