//! The command line as people and scripts meet it. Every `tests/cli/*.toml` is a case: what is typed, and the
//! standard output, standard error and exit status that must come of it.
//!
//! To add one, write `tests/cli/COMMAND-BEHAVIOUR.toml`:
//!
//! ```toml
//! args = "check customers.yaml"      # behind `veilstream`
//! fs.cwd = "inputs"                  # tests/cli/inputs, where policies, events and configurations stand
//! stdin = ""                         # if anything is piped in
//! status.code = 2                    # or: status = "success"
//! stdout = ""
//! stderr = ""
//! ```
//!
//! `TRYCMD=overwrite cargo test --test cli` writes what the binary says into the outputs that are there: read
//! the difference before it is committed. In an output, `[..]` stands for any characters and a line `...` for
//! any lines. `fs.sandbox = true` runs in a copy of the folder, for commands that write files. Where it takes
//! more than one command, `bin.name = "sh"` and `args = ["-c", '...']` run a shell that finds `veilstream`.
//! `cargo test --test cli -- commands trycmd=NAME` runs the cases whose file name contains NAME.
//!
//! Values that nobody may see contain the word `canary`: a case whose standard error has it ends with status
//! 99, whatever it expects.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails here fails where it should"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const VEILSTREAM: &str = env!("CARGO_BIN_EXE_veilstream");

/// Runs veilstream, and tells when a value comes out in its messages.
const GUARD: &str = r#"#!/bin/sh
exec 3>&1
said=$("$VEILSTREAM" "$@" 2>&1 >&3 3>&-)
status=$?
exec 3>&-
[ -z "$said" ] || printf '%s\n' "$said" >&2
case "$said" in
*[Cc][Aa][Nn][Aa][Rr][Yy]*)
    echo "a value stands in this message" >&2
    exit 99
    ;;
esac
exit $status
"#;

#[test]
fn commands() {
    let folder = tempfile::tempdir().unwrap();
    let guard = folder.path().join("veilstream");
    fs::write(&guard, GUARD).unwrap();
    fs::set_permissions(&guard, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    trycmd::TestCases::new()
        .default_bin_path(&guard)
        .register_bin("sh", Path::new("/bin/sh"))
        .env("VEILSTREAM", VEILSTREAM)
        .env("PATH", format!("{}:{path}", folder.path().display()))
        // The help is wrapped to the terminal.
        .env("COLUMNS", "100")
        .timeout(Duration::from_secs(60))
        .case("tests/cli/*.toml")
        .run();
}

#[test]
fn no_expected_message_has_a_value() {
    let mut cases = 0;
    for entry in fs::read_dir("tests/cli").unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let message = text.split_once("\nstderr = ").map(|(_, message)| message.to_lowercase());
        let message = message.unwrap_or_else(|| panic!("{}: no `stderr`", file.display()));
        assert!(!message.contains("canary"), "{}", file.display());
        cases += 1;
    }
    assert!(cases > 0);
}
