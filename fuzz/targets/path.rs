//! Whatever is read as a path is written so that it is read as the same path.
#![no_main]

use libfuzzer_sys::fuzz_target;
use veilstream::policy::Path;

fuzz_target!(|text: &str| {
    if let Ok(path) = Path::parse(text) {
        assert_eq!(Path::parse(&path.to_string()), Ok(path));
    }
});
