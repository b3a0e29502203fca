//! Lets the binary find libtorch at run time without LD_LIBRARY_PATH.

#[allow(clippy::disallowed_methods, reason = "a build script hears from cargo through its environment")]
fn main() {
    // torch-sys (links = "tch") publishes its library folder to its direct dependents under this name.
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
}
