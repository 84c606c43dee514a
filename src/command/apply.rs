//! `veilstream apply`: the engine as a Unix filter.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{anyhow, bail};
use base64_simd::STANDARD;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::many::{Many, Outcome};
use super::{Exit, OrUsage};
use crate::keys::Keyset;
use crate::policy::Plan;
use crate::quarantine::{Coordinates, Sealing};
use crate::rewrite::Rewriter;

const BUFFER: usize = 1 << 20;

/// Sanitize JSON lines from standard input to standard output, for one view
#[derive(Args)]
pub struct Apply {
    /// The policy file
    policy: PathBuf,
    /// The view; may be left out where the policy has one
    #[arg(long)]
    view: Option<String>,
    /// The keyset; needed where the view encrypts, tokenizes or hashes, and for --quarantine
    #[arg(long)]
    keys: Option<PathBuf>,
    /// Where lines go that cannot be sanitized, encrypted, as JSON lines: a new file, none is overwritten. Without
    /// it the first such line ends the work
    #[arg(long, requires = "keys")]
    quarantine: Option<PathBuf>,
}

impl Apply {
    pub fn run(self) -> Result<(), Exit> {
        let mut policy = super::policy(&self.policy)?;
        let names: Vec<String> = policy.views.iter().map(|view| view.name.clone()).collect();
        match &self.view {
            Some(wanted) => policy.views.retain(|view| view.name == *wanted),
            None if names.len() > 1 => policy.views.clear(),
            None => {}
        }
        if policy.views.is_empty() {
            let names = names.join(", ");
            let problem = match &self.view {
                Some(wanted) => format!("no view is called `{wanted}`; there is {names}"),
                None => format!("name one view with --view: {names}"),
            };
            return Err(Exit::Usage(anyhow!(problem)));
        }
        let (policy, keys) = match &self.keys {
            Some(file) => (policy, Keyset::load(file).or_usage()?),
            None => (policy.without_pins(), Keyset::generate()),
        };
        let plan = Arc::new(Plan::compile(Arc::new(policy), &keys).or_usage()?);
        if self.keys.is_none() && !plan.keys.is_empty() {
            let problem = "this view encrypts, tokenizes or hashes: give --keys FILE (`veilstream keys init FILE`)";
            return Err(Exit::Usage(anyhow!(problem)));
        }
        let quarantine = match &self.quarantine {
            None => None,
            Some(file) => {
                let out = File::options()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(file)
                    .map_err(|error| anyhow!("{}: {error}", file.display()))
                    .or_usage()?;
                Some(Quarantine {
                    sealing: Sealing::new(&keys).or_usage()?,
                    out: BufWriter::new(out),
                    count: 0,
                })
            }
        };
        let many = Many::new(&plan, super::now_ms()).or_usage()?;
        let quarantined = filter(Rewriter::new(plan), many, quarantine)?;
        if quarantined > 0 {
            let lines = if quarantined == 1 { "line" } else { "lines" };
            eprintln!("veilstream: {quarantined} {lines} went to quarantine");
        }
        Ok(())
    }
}

struct Quarantine {
    sealing: Sealing,
    out: BufWriter<File>,
    count: u64,
}

/// Gives how many lines went to quarantine.
fn filter(
    mut rewriter: Rewriter,
    mut many: Many,
    mut quarantine: Option<Quarantine>,
) -> anyhow::Result<u64> {
    let mut input = BufReader::with_capacity(BUFFER, io::stdin().lock());
    let mut output = BufWriter::with_capacity(BUFFER, io::stdout().lock());
    let progress = progress();
    let mut line = Vec::new();
    let (mut number, mut told) = (0_u64, 0);
    let now_ms = super::now_ms();
    loop {
        line.clear();
        let read = input.read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        number += 1;
        told += read as u64;
        if told > BUFFER as u64 {
            progress.inc(std::mem::take(&mut told));
        }
        let event = line.trim_ascii();
        if event.is_empty() {
            continue;
        }
        let record = rewriter.event(event, now_ms);
        match rewriter.rewrite(&record) {
            Ok(out) => {
                for value in out.records(0).filter_map(|record| record.value()) {
                    write_line(&mut output, value)?;
                }
                many.take(&out)?;
                many.published(0, false, |value| anyhow::Ok(write_line(&mut output, value)?))?;
            }
            Err(failure) => match &mut quarantine {
                None => {
                    output.flush()?;
                    bail!("line {number}: {failure}");
                }
                Some(quarantine) => {
                    let from =
                        Coordinates { topic: "stdin".into(), partition: 0, offset: number as i64 };
                    let label = rewriter.plan().label.clone();
                    let sealed = quarantine.sealing.seal(&record, None, &from, &failure, &label);
                    let entry = serde_json::json!({
                        "line": number,
                        "stage": failure.stage.name(),
                        "reason": failure.reason.code(),
                        "path": failure.path,
                        "sealed": STANDARD.encode_to_string(sealed.value()),
                    });
                    writeln!(quarantine.out, "{entry}")?;
                    quarantine.count += 1;
                }
            },
        }
    }
    let outcome = many.published(0, true, |value| anyhow::Ok(write_line(&mut output, value)?))?;
    output.flush()?;
    progress.finish_and_clear();
    if let Some(Outcome { suppressed: suppressed @ 1.., .. }) = outcome {
        eprintln!("veilstream: no group was found for {suppressed} rows: they are suppressed");
    }
    let Some(mut quarantine) = quarantine else { return Ok(0) };
    quarantine.out.flush()?;
    Ok(quarantine.count)
}

fn write_line(output: &mut impl Write, value: &[u8]) -> io::Result<()> {
    output.write_all(value)?;
    output.write_all(b"\n")
}

/// A bar on a terminal whose input is a file, a spinner for a pipe, nothing elsewhere.
fn progress() -> ProgressBar {
    if !io::stderr().is_terminal() || io::stdin().is_terminal() {
        return ProgressBar::hidden();
    }
    let input = File::open("/dev/stdin").and_then(|file| file.metadata());
    let length = input.ok().filter(std::fs::Metadata::is_file).map(|file| file.len());
    let template = match length {
        Some(_) => "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{spinner} {bytes} {bytes_per_sec}",
    };
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    bar.with_style(style)
}
