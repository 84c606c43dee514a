//! `veilstream risk`: how likely the people of a file of sanitized events are found again.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Exit, OrUsage, printable};
use crate::policy;
use crate::risk::{self, Distance, Figures, Question, Row, Rows, Tally, percent};

const BUFFER: usize = 1 << 20;

/// Say how likely people are found again in sanitized events
#[derive(Args)]
pub struct Risk {
    /// JSON lines, as `apply` gives them or of Debezium; or CSV with a header. `-` is standard input
    file: PathBuf,
    /// What others may know of a person (quasi-identifiers): paths as in a policy, made of names alone
    #[arg(long, value_name = "PATH", required = true, value_delimiter = ',')]
    quasi: Vec<String>,
    /// What they should not learn: for l-diversity and t-closeness
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    sensitive: Vec<String>,
    /// Whose row it is: a group counts each subject once. Without it each row is another's
    #[arg(long, value_name = "PATH")]
    subject: Option<String>,
    /// Everybody who could be in the file, a row each, with the same quasi-identifiers: for k-map and journalist risk
    #[arg(long, value_name = "FILE")]
    population: Option<PathBuf>,
    /// Groups of fewer are at risk
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    threshold: u64,
    /// For scripts
    #[arg(long)]
    json: bool,
    /// Write a report with plots to this file, which is overwritten
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Status 1 where k is smaller, or where there is none: no row says anything of its quasi-identifiers
    #[arg(long, value_name = "K")]
    fail_below: Option<u64>,
}

impl Risk {
    pub fn run(self) -> Result<(), Exit> {
        let question = self.question().or_usage()?;
        if is_stdin(&self.file) && self.population.as_ref().is_some_and(|file| is_stdin(file)) {
            return Err(Exit::Usage(anyhow!("only one of two files can be standard input")));
        }
        let same = |one: &PathBuf, other: &PathBuf| {
            one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
        };
        if let Some(html) = &self.html
            && std::iter::once(&self.file).chain(&self.population).any(|file| same(file, html))
        {
            let problem = anyhow!("--html {}: that is a file to be read", html.display());
            return Err(Exit::Usage(problem));
        }
        let mut tally = Tally::new(&question);
        let without_row = read(&self.file, &question.paths(), |row| tally.count(row)).or_usage()?;
        if let Some(file) = &self.population {
            read(file, &question.quasi, |row| tally.populate(row)).or_usage()?;
        }
        let figures = tally.figures(without_row);
        let file = name(&self.file);
        if let Some(to) = &self.html {
            let page = risk::html(&file, &figures);
            std::fs::write(to, page).with_context(|| to.display().to_string())?;
        }
        let printed = if self.json {
            let report = serde_json::to_value(&figures)?;
            writeln!(io::stdout(), "{report:#}")
        } else {
            print(&file, &figures)
        };
        // Also where the reader has seen enough of the table.
        match (figures.k, self.fail_below) {
            (Some(k), Some(least)) if k < least => Err(anyhow!("k is {k}, below {least}").into()),
            (None, Some(_)) => Err(anyhow!(
                "there is no k: no row is left that says anything of its quasi-identifiers"
            )
            .into()),
            _ => Ok(printed?),
        }
    }

    fn question(&self) -> anyhow::Result<Question> {
        let all =
            |texts: &[String]| texts.iter().map(|text| plain(text)).collect::<Result<Vec<_>, _>>();
        let question = Question {
            quasi: all(&self.quasi)?,
            sensitive: all(&self.sensitive)?,
            subject: self.subject.as_deref().map(plain).transpose()?,
            threshold: self.threshold,
        };
        let paths = question.paths();
        let twice = paths
            .iter()
            .enumerate()
            .find(|(at, path)| paths.iter().take(*at).any(|other| other == *path));
        match twice {
            Some((_, path)) => Err(anyhow!("`{path}` is named twice")),
            None => Ok(question),
        }
    }
}

/// A path that leads to one value of a row.
fn plain(text: &str) -> anyhow::Result<policy::Path> {
    let path =
        policy::Path::parse(text).map_err(|expected| anyhow!("`{text}`: expected {expected}"))?;
    if !path.is_plain() {
        return Err(anyhow!("`{text}`: expected names and dots, which lead to one value of a row"));
    }
    Ok(path)
}

fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == "-"
}

fn name(file: &Path) -> String {
    if is_stdin(file) { "standard input".into() } else { file.display().to_string() }
}

/// Reads a file row by row. Gives how many events were without one.
fn read(file: &Path, paths: &[policy::Path], mut each: impl FnMut(&Row)) -> anyhow::Result<u64> {
    let name = name(file);
    let (input, length): (Box<dyn Read>, _) = if is_stdin(file) {
        (Box::new(io::stdin().lock()), None)
    } else {
        let input = File::open(file).with_context(|| name.clone())?;
        let length =
            input.metadata().ok().filter(std::fs::Metadata::is_file).map(|data| data.len());
        (Box::new(input), length)
    };
    let progress = progress(file, length);
    let input = BufReader::with_capacity(BUFFER, progress.wrap_read(input));
    let without_row = count(&name, input, paths, &mut each);
    progress.finish_and_clear();
    Ok(without_row?)
}

fn count(
    name: &str,
    input: impl BufRead,
    paths: &[policy::Path],
    each: &mut impl FnMut(&Row),
) -> Result<u64, risk::ReadError> {
    let mut rows = Rows::open(name, input, paths)?;
    let mut row = Row::default();
    while rows.read(&mut row)? {
        each(&row);
    }
    rows.finish()
}

/// A bar on a terminal for a file, a spinner for a pipe, nothing elsewhere.
fn progress(file: &Path, length: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() || is_stdin(file) && io::stdin().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = match length {
        Some(_) => "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{spinner} {bytes} {bytes_per_sec}",
    };
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    length.map_or_else(ProgressBar::new_spinner, ProgressBar::new).with_style(style)
}

fn table<const N: usize>(names: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(names);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn print(file: &str, figures: &Figures) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}: {} rows", printable(file), figures.rows)?;
    writeln!(out, "{}", counts(figures))?;
    let mut sizes = table(["group size", "groups", "records", "of all records"]);
    for bin in &figures.histogram {
        let share = bin.records as f64 / figures.records.max(1) as f64;
        sizes.add_row([
            bin.label(),
            bin.groups.to_string(),
            bin.records.to_string(),
            percent(share),
        ]);
    }
    writeln!(out, "{sizes}")?;
    if !figures.sensitive.is_empty() {
        let mut table = table(["sensitive", "values", "distinct l", "entropy l", "t", "distance"]);
        for field in &figures.sensitive {
            table.add_row([
                printable(&field.path.to_string()),
                field.values.to_string(),
                field.distinct_l.map_or("—".into(), |l| l.to_string()),
                field.entropy_l.map_or("—".into(), |l| format!("{l:.2}")),
                field.t.map_or("—".into(), |t| format!("{t:.3}")),
                match field.distance {
                    Distance::Equal => "equal".into(),
                    Distance::Ordered => "ordered".into(),
                },
            ]);
        }
        writeln!(out, "{table}")?;
    }
    writeln!(out, "{}", risks(figures))?;
    if let Some(all) = figures.population.filter(|all| all.short_groups > 0) {
        writeln!(
            out,
            "the population has fewer people of {} groups than there are: it is not whole, or not generalized in the \
             same way",
            all.short_groups
        )?;
    }
    Ok(())
}

fn counts(figures: &Figures) -> Table {
    let mut table = table(["figure", "value"]);
    let mut add = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    let part = |part: risk::Part| format!("{} ({})", part.records, percent(part.share));
    let some = |count: Option<u64>| count.map_or("—".into(), |count| count.to_string());
    add("k, the smallest group", some(figures.k));
    if let Some(all) = &figures.population {
        add("k-map, of a population", format!("{} of {}", some(all.k_map), all.rows));
    }
    add("groups", figures.groups.to_string());
    if figures.subjects != figures.records {
        add("subjects", figures.subjects.to_string());
    }
    add("records in groups", figures.records.to_string());
    add("mean group", format!("{:.1}", figures.mean_group));
    add("median group", figures.median_group.to_string());
    add("unique records", part(figures.unique));
    add(&format!("records in groups below {}", figures.threshold), part(figures.below_threshold));
    add("suppressed rows", figures.suppressed_rows.to_string());
    for quasi in figures.quasi.iter().filter(|quasi| quasi.absent > 0) {
        let path = printable(&quasi.path.to_string());
        add(&format!("rows without {path}"), quasi.absent.to_string());
    }
    if figures.without_subject > 0 {
        add("rows without a subject", figures.without_subject.to_string());
    }
    if figures.without_row > 0 {
        add("events without a row", figures.without_row.to_string());
    }
    table
}

fn risks(figures: &Figures) -> Table {
    let over = format!("records over 1/{}", figures.threshold);
    let mut table = table(["risk", "highest", "average", &over]);
    let risks = figures.risks;
    let all = [("prosecutor", Some(risks.prosecutor)), ("journalist", risks.journalist)];
    for (name, risk) in all.into_iter().filter_map(|(name, risk)| Some((name, risk?))) {
        table.add_row([
            name.into(),
            percent(risk.highest),
            percent(risk.average),
            percent(risk.at_risk),
        ]);
    }
    table.add_row(["marketer".into(), "—".into(), percent(risks.marketer), "—".into()]);
    table
}
