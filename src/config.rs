//! Configuration: defaults < file < `L402T_*` < flag. The only place that reads the environment.
