//! The `eventtrigger` binary.

fn main() {}
