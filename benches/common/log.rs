//! Our log in a database of the benchmark's server, through the library.

use anyhow::Result;
use eventtrigger::{
    log::{
        Admin, Definition, Owner,
        definition::{Columns, Context, Operations, Ordering, Policy, Updates},
    },
    name::{Ident, ObjectName, TableName},
};

use super::server::Server;

/// The log of a database, made when it is not there.
pub(crate) async fn open(server: &Server, dbname: &str) -> Result<Admin> {
    Ok(Admin::open(&server.config(dbname), &schema(), &owner()).await?.0)
}

/// Who owns the logs.
pub(crate) fn owner() -> Owner {
    Owner { uid: "bench".to_owned(), log: ObjectName::new("bench", "bench") }
}

/// Where the logs are.
pub(crate) fn schema() -> Ident {
    Ident::new("eventlog")
}

/// A trigger that wants all columns of all operations of a table.
pub(crate) fn everything(name: &str, table: &str) -> Definition {
    Definition {
        trigger: ObjectName::new("bench", name),
        table: TableName::new("public", table),
        on: Operations { insert: true, update: Some(Updates::All), delete: true, truncate: false },
        columns: Columns::All,
        context: Context::default(),
        replicated: false,
        ordering: Ordering::PrimaryKey,
        partitions: 1,
        own_workers: None,
        sink: None,
        policy: Policy::default(),
        dead_letter_sink: None,
        suspend: false,
    }
}
