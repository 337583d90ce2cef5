//! What the tests against a real database and a real cluster share: the receiver they post to, the writer whose
//! changes they follow, and the ledger that tells whether all of them arrived.

pub mod behaviour;
pub mod control;
pub mod ledger;
pub mod receiver;
pub mod record;
pub mod server;
pub mod writer;
