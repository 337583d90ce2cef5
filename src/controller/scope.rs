//! What a controller looks after: the whole cluster, or some namespaces, each watched by itself, so that rights in each of
//! them are enough.

use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource};

/// One thing to watch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Scope {
    /// Every namespace.
    Cluster,
    /// One.
    Namespace(String),
}

impl Scope {
    /// Each of these namespaces once; the whole cluster if there are none.
    pub(super) fn of(namespaces: &[String]) -> Vec<Self> {
        let mut names: Vec<&str> = namespaces.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).collect();
        // Two controllers of one namespace would reconcile everything in it twice, at the same time.
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return vec![Self::Cluster];
        }
        names.into_iter().map(|name| Self::Namespace(name.to_owned())).collect()
    }

    /// Whether objects in `namespace` are of this.
    pub(super) fn holds(&self, namespace: &str) -> bool {
        match self {
            Self::Cluster => true,
            Self::Namespace(name) => name == namespace,
        }
    }

    /// The objects of a kind in it.
    pub(super) fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match self {
            Self::Cluster => Api::all(client.clone()),
            Self::Namespace(name) => Api::namespaced(client.clone(), name),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::none("", &["*"])]
    #[case::nothing_but_commas(", ", &["*"])]
    #[case::several("shop,bank", &["bank", "shop"])]
    #[case::one_twice("shop, shop", &["shop"])]
    fn each_namespace_is_watched_once_or_all_of_them_are(#[case] named: &str, #[case] expected: &[&str]) {
        let named: Vec<String> = named.split(',').map(str::to_owned).collect();
        let found = Scope::of(&named).into_iter().map(|scope| match scope {
            Scope::Cluster => "*".to_owned(),
            Scope::Namespace(name) => name,
        });
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }
}
