//! The operator: watches resources, installs SQL, runs delivery workers, writes statuses.
