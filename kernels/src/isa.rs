//! Which instruction set the kernels run on. All give the same bits; they differ in speed only.

use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Path {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Sse2,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// An instruction set that this machine has. There is no way to make one that it lacks, which is what makes calling
/// the vector code sound.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(Path);

/// A name that isn't that of an instruction set of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownIsa(String);

impl fmt::Display for UnknownIsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = Isa::available().iter().map(Isa::to_string).collect();
        write!(f, "this machine has no instruction set {:?}: use one of {}", self.0, names.join(", "))
    }
}

impl std::error::Error for UnknownIsa {}

impl Isa {
    /// Plain Rust: the definition that the others are tested against.
    pub const PORTABLE: Isa = Isa(Path::Portable);

    /// All of this machine's, slowest first.
    pub fn available() -> Vec<Isa> {
        #[allow(unused_mut, reason = "some kinds of machine have no other")]
        let mut paths = vec![Path::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            // Part of every x86-64.
            paths.push(Path::Sse2);
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                paths.push(Path::Avx2);
                let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq");
                if wide && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl") {
                    paths.push(Path::Avx512);
                }
            }
        }
        // Part of every 64-bit Arm that runs an operating system.
        #[cfg(target_arch = "aarch64")]
        paths.push(Path::Neon);
        paths.into_iter().map(Isa).collect()
    }

    /// The fastest.
    pub fn best() -> Isa {
        Self::available().last().copied().unwrap_or(Self::PORTABLE)
    }

    pub(crate) fn path(self) -> Path {
        self.0
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Path::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Path::Sse2 => "sse2",
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Path::Neon => "neon",
        })
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Isa({self})")
    }
}

impl FromStr for Isa {
    type Err = UnknownIsa;
    fn from_str(name: &str) -> Result<Self, UnknownIsa> {
        Self::available().into_iter().find(|isa| isa.to_string() == name).ok_or_else(|| UnknownIsa(name.into()))
    }
}

/// Defines `pub fn $name(isa, …)`, which runs the generic `$body::<F>` compiled for each instruction set. The body must be
/// `#[inline(always)]`, so that it is compiled with the features of the function it lands in.
macro_rules! dispatch {
    ($(#[$doc:meta])* $name:ident => $body:path, ($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)?) => {
        $(#[$doc])*
        pub fn $name(isa: $crate::Isa, $($arg: $type),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                use $body as body;
                #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
                fn avx512($($arg: $type),*) $(-> $out)? {
                    body::<$crate::fma::Hardware>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) $(-> $out)? {
                    body::<$crate::fma::Hardware>($($arg),*)
                }
                match isa.path() {
                    $crate::isa::Path::Portable => body::<$crate::fma::Portable>($($arg),*),
                    $crate::isa::Path::Sse2 => body::<$crate::fma::Software>($($arg),*),
                    // SAFETY: an Isa exists only for features that this machine has.
                    $crate::isa::Path::Avx2 => unsafe { avx2($($arg),*) },
                    // SAFETY: as above.
                    $crate::isa::Path::Avx512 => unsafe { avx512($($arg),*) },
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            {
                use $body as body;
                match isa.path() {
                    $crate::isa::Path::Portable => body::<$crate::fma::Portable>($($arg),*),
                    #[cfg(target_arch = "aarch64")]
                    $crate::isa::Path::Neon => body::<$crate::fma::Hardware>($($arg),*),
                }
            }
        }
    };
}
pub(crate) use dispatch;
