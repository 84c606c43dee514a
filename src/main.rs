//! Arguments in, exit code out.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    if !processor_suits() {
        eprintln!(
            "error: this build needs a processor with SSE4.1, AES-NI and PCLMULQDQ\n\
             Run it where those are, or build without .cargo/config.toml: then encryption is slower."
        );
        return ExitCode::FAILURE;
    }
    veilstream::telemetry::quiet_panics();
    no_core_dumps();
    veilstream::command::Cli::parse().run()
}

/// A dump would hold keys and customer data. With 1 byte, and not with 0, a program that takes dumps from the kernel
/// gets none either (Linux, `fs/coredump.c`).
fn no_core_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    // To lower a limit is always allowed.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(1), maximum: Some(1) });
}

/// Whether the processor has the instructions that .cargo/config.toml builds for: without them it would end the
/// process at the first.
#[cfg(all(target_arch = "x86_64", target_feature = "aes"))]
fn processor_suits() -> bool {
    let features = raw_cpuid::CpuId::new().get_feature_info();
    features.is_some_and(|has| {
        has.has_ssse3() && has.has_sse41() && has.has_aesni() && has.has_pclmulqdq()
    })
}

#[cfg(not(all(target_arch = "x86_64", target_feature = "aes")))]
fn processor_suits() -> bool {
    true
}
