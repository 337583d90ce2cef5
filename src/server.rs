//! `/livez`, `/readyz` and `/metrics`, the same for every long-running subcommand.
