//! One file per subcommand: wiring only, and the only place for anyhow.
