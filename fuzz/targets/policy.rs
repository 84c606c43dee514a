//! Whatever stands in a policy file: diagnostics or a plan, never a panic.
#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use veilstream::keys::Keyset;
use veilstream::policy::{Plan, Policy};

static KEYS: LazyLock<Keyset> = LazyLock::new(Keyset::generate);

fuzz_target!(|text: &str| {
    // What is included is there too: the same text again.
    let read = |_: &Path| Ok(text.to_owned());
    match Policy::load_with(Path::new("policy.yaml"), &read) {
        Ok(policy) => {
            let _ = Plan::compile(Arc::new(policy), &*KEYS);
        }
        Err(diagnostics) => assert!(!diagnostics.to_string().is_empty()),
    }
});
