//! What people see: stdout is the result, stderr is progress and logs.
