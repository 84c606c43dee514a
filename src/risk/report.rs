//! The report as one HTML page: no script, nothing from elsewhere, and no value of the data.

use super::{Distance, Figures, Risk, Sensitive, percent, plot};

/// A page that says what [`Figures`] do. `file` is what the rows are called.
pub fn html(file: &str, figures: &Figures) -> String {
    let file = escape(file);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Re-identification risk of {file}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <header>\n<h1>Re-identification risk</h1>\n<p class=\"file\">{file}</p>\n</header>\n"
    );
    page += &glance(figures);
    page += &sizes(figures);
    page += &risks(figures);
    if !figures.sensitive.is_empty() {
        page += &sensitive(figures);
    }
    page += &counted(figures);
    page += SOURCES;
    page += "</main>\n</body>\n</html>\n";
    page
}

/// Text of a page, also within the quotes of an attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            control if control.is_control() => escaped.extend(control.escape_unicode()),
            other => escaped.push(other),
        }
    }
    escaped
}

fn glance(figures: &Figures) -> String {
    let k = figures.k.map_or("—".to_owned(), |k| k.to_string());
    let low =
        if figures.k.is_some_and(|k| k < figures.threshold) { Tone::Low } else { Tone::Plain };
    let some = |records: u64| if records > 0 { Tone::Low } else { Tone::Plain };
    let mut cards = card("k, the smallest group", &k, low);
    cards += &card("groups", &figures.groups.to_string(), Tone::Plain);
    let unique = figures.unique;
    cards += &card("records alone in their group", &percent(unique.share), some(unique.records));
    let below = figures.below_threshold;
    let name = format!("records in groups below {}", figures.threshold);
    cards += &card(&name, &percent(below.share), some(below.records));
    if let Some(k_map) = figures.population.and_then(|all| all.k_map) {
        let tone = if k_map < figures.threshold { Tone::Low } else { Tone::Plain };
        cards += &card("k-map, in the population", &k_map.to_string(), tone);
    }
    format!(
        "<section class=\"cards\">\n{cards}</section>\n<p class=\"said\">{}</p>\n",
        said(figures)
    )
}

#[derive(Clone, Copy)]
enum Tone {
    Plain,
    Low,
}

fn card(name: &str, value: &str, tone: Tone) -> String {
    let class = match tone {
        Tone::Plain => "card",
        Tone::Low => "card low",
    };
    format!("<div class=\"{class}\"><b>{value}</b><span>{name}</span></div>\n")
}

/// The figures in a sentence or two.
fn said(figures: &Figures) -> String {
    let names: Vec<String> = figures
        .quasi
        .iter()
        .map(|quasi| format!("<code>{}</code>", escape(&quasi.path.to_string())))
        .collect();
    let names = names.join(", ");
    match figures.k {
        None => format!("Every row is suppressed: nobody can be told from others by {names}."),
        Some(1) => format!(
            "{} of {} records are the only ones of their kind: who knows {names} of that person has found the record.",
            figures.unique.records, figures.records
        ),
        Some(k) => format!(
            "Who knows {names} of somebody finds at least {k} records that it could be, and {:.1} in the mean.",
            figures.mean_group
        ),
    }
}

fn sizes(figures: &Figures) -> String {
    let bars = plot::bars(
        "Groups by their size",
        "size of the group",
        &figures.histogram,
        figures.threshold,
    );
    let cumulative = plot::cumulative("Share of records by the size of their group", figures);
    let rows: String = figures
        .histogram
        .iter()
        .map(|bin| {
            let share = percent(super::share(bin.records, figures.records));
            row(&[bin.label(), bin.groups.to_string(), bin.records.to_string(), share])
        })
        .collect();
    format!(
        "<section>\n<h2>Groups</h2>\n<p>A group is all records that are the same in what others may know. \
         Orange: groups smaller than {}.</p>\n<div class=\"plots\">\n\
         <figure><figcaption>How many groups are of which size</figcaption>{bars}</figure>\n\
         <figure><figcaption>Records in groups of at most that size</figcaption>{cumulative}</figure>\n</div>\n\
         <details><summary>As a table</summary>\n<table>\n<thead>{}</thead>\n<tbody>{rows}</tbody>\n</table></details>\n\
         </section>\n",
        figures.threshold,
        head(&["size", "groups", "records", "of all records"]),
    )
}

fn head(names: &[&str]) -> String {
    let cells: String = names.iter().map(|name| format!("<th scope=\"col\">{name}</th>")).collect();
    format!("<tr>{cells}</tr>")
}

/// A row of a table; its first cell is its name.
fn row(cells: &[String]) -> String {
    let mut html = "<tr>".to_owned();
    for (at, cell) in cells.iter().enumerate() {
        match at {
            0 => html += &format!("<th scope=\"row\">{cell}</th>"),
            _ => html += &format!("<td>{cell}</td>"),
        }
    }
    html + "</tr>\n"
}

fn risks(figures: &Figures) -> String {
    let line = |name: &str, knows: &str, risk: Risk| {
        let name = format!("{name} <small>{knows}</small>");
        row(&[name, percent(risk.highest), percent(risk.average), percent(risk.at_risk)])
    };
    let risks = figures.risks;
    let mut rows = line("Prosecutor", "knows that the person is in the data", risks.prosecutor);
    if let Some(risk) = risks.journalist {
        rows += &line("Journalist", "does not know it", risk);
    }
    let marketer = "Marketer <small>wants as many as possible</small>".to_owned();
    rows += &row(&[marketer, "—".into(), percent(risks.marketer), "—".into()]);
    let population = match figures.population {
        None => "Without a population there is no journalist risk.".to_owned(),
        Some(all) if all.short_groups > 0 => format!(
            "The population has {} rows. Of {} groups it has fewer people than there are: it is not whole, or not \
             generalized in the same way.",
            all.rows, all.short_groups
        ),
        Some(all) => format!("The population has {} rows.", all.rows),
    };
    format!(
        "<section>\n<h2>How likely a record is found again</h2>\n<table>\n<thead>{}</thead>\n<tbody>{rows}</tbody>\n\
         </table>\n<p class=\"note\">{population}</p>\n</section>\n",
        head(&[
            "who tries",
            "highest",
            "average",
            &format!("records over 1/{}", figures.threshold)
        ]),
    )
}

fn sensitive(figures: &Figures) -> String {
    let line = |field: &Sensitive| {
        row(&[
            format!("<code>{}</code>", escape(&field.path.to_string())),
            field.values.to_string(),
            field.distinct_l.map_or("—".into(), |l| l.to_string()),
            field.entropy_l.map_or("—".into(), |l| format!("{l:.2}")),
            field.t.map_or("—".into(), |t| format!("{t:.3}")),
            match field.distance {
                Distance::Equal => "equal".into(),
                Distance::Ordered => "ordered".into(),
            },
        ])
    };
    let rows: String = figures.sensitive.iter().map(line).collect();
    let plots: String = figures
        .sensitive
        .iter()
        .map(|field| {
            let name = escape(&field.path.to_string());
            let title = format!("Groups by their distinct values of {name}");
            let last = field.histogram.iter().rposition(|bin| bin.groups > 0);
            let met = field.histogram.get(..=last.unwrap_or_default()).unwrap_or_default();
            let bars = plot::bars(&title, "distinct values in the group", met, 2);
            format!("<figure><figcaption>Groups by distinct values of <code>{name}</code></figcaption>{bars}</figure>\n")
        })
        .collect();
    format!(
        "<section>\n<h2>What a group says of somebody in it</h2>\n<p>Where all of a group have the same value, nobody \
         has to be found to learn it. Orange: groups with one value.</p>\n<table>\n<thead>{}</thead>\n\
         <tbody>{rows}</tbody>\n</table>\n<div class=\"plots\">\n{plots}</div>\n</section>\n",
        head(&["sensitive", "values", "distinct l", "entropy l", "t", "distance"]),
    )
}

fn counted(figures: &Figures) -> String {
    let mut rows = row(&["rows".into(), figures.rows.to_string()]);
    let mut add = |name: &str, count: u64| rows += &row(&[name.into(), count.to_string()]);
    add("events without a row", figures.without_row);
    add("suppressed rows", figures.suppressed_rows);
    add("subjects", figures.subjects);
    add("rows without a subject", figures.without_subject);
    add("records in groups", figures.records);
    rows += &row(&["mean group".into(), format!("{:.1}", figures.mean_group)]);
    rows += &row(&["median group".into(), figures.median_group.to_string()]);
    let quasi: String = figures
        .quasi
        .iter()
        .map(|quasi| {
            row(&[
                format!("<code>{}</code>", escape(&quasi.path.to_string())),
                quasi.absent.to_string(),
            ])
        })
        .collect();
    format!(
        "<section>\n<h2>What was counted</h2>\n<div class=\"plots\">\n<table>\n<tbody>{rows}</tbody>\n</table>\n\
         <table>\n<thead>{}</thead>\n<tbody>{quasi}</tbody>\n</table>\n</div>\n</section>\n",
        head(&["quasi-identifier", "rows without it"]),
    )
}

const SOURCES: &str = "<footer>\n<p><b>k</b>, <b>k-map</b>: Sweeney 2001, 2002. <b>l</b>: Machanavajjhala, Kifer, \
Gehrke, Venkitasubramaniam 2007; distinct l is the fewest values in a group, entropy l as many as equally frequent \
ones would tell as little. <b>t</b>: Li, Li, Venkatasubramanian 2007; how far a group is from all, 0 to 1, at most. \
<b>Risks</b>: El Emam 2013, chapter 16.</p>\n<p>What is found again depends on what others know: the figures hold for \
these quasi-identifiers, and for no others. This page has counts and names of paths, and no value of the data.</p>\n\
</footer>\n";

const STYLE: &str = "\
:root { color-scheme: light dark; --paper: #fafaf8; --sheet: #fff; --ink: #1e2227; --soft: #667078; --rule: #e2e4e3;
  --main: #2b6f8a; --low: #c4511f; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --sheet: #1b2024; --ink: #e5e8ea; --soft: #98a2aa;
  --rule: #2e353b; --main: #6fb7d2; --low: #f08a5b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, \"Segoe UI\", Roboto, \"Helvetica Neue\", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 40px 24px 56px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 0 0 6px; }
p { margin: 0 0 14px; max-width: 72ch; text-wrap: pretty; }
code { font: 0.92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.file, .note, small, footer { color: var(--soft); }
.file { margin: 4px 0 0; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(168px, 1fr)); gap: 12px; margin: 24px 0 18px; }
.card, figure, section > table, section > .plots > table, details table { background: var(--sheet);
  border: 1px solid var(--rule); border-radius: 8px; }
.card { padding: 14px 16px; }
.card b { display: block; font-size: 28px; line-height: 1.2; font-weight: 600; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 13px; }
.card.low b { color: var(--low); }
.said { font-size: 17px; max-width: none; }
section { margin-top: 34px; }
section.cards { margin-top: 24px; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 14px;
  align-items: start; margin-top: 14px; }
figure { margin: 0; padding: 14px 16px 8px; }
figcaption { font-weight: 600; font-size: 14px; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 15px; fill: var(--soft); }
svg .count { fill: var(--ink); }
svg .limit-name { fill: var(--low); }
.grid { stroke: var(--rule); }
.base { stroke: var(--soft); }
.bar { fill: var(--main); }
.bar.low { fill: var(--low); }
.area { fill: var(--main); opacity: 0.14; }
.line { fill: none; stroke: var(--main); stroke-width: 2; stroke-linejoin: round; }
.limit { stroke: var(--low); stroke-dasharray: 4 4; }
table { width: 100%; border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 16px; text-align: right; font-weight: 400; border-top: 1px solid var(--rule); }
tr > :first-child { text-align: left; }
thead th { color: var(--soft); font-size: 13px; border-top: 0; }
table > tbody:first-child > tr:first-child > * { border-top: 0; }
small { font-size: 13px; margin-left: 6px; }
.note { margin-top: 10px; font-size: 14px; }
details { margin-top: 14px; }
summary { cursor: pointer; color: var(--soft); margin-bottom: 10px; }
footer { margin-top: 40px; padding-top: 18px; border-top: 1px solid var(--rule); font-size: 13px; }
footer p { max-width: 90ch; }
@media print { body { background: none; } .card, figure { break-inside: avoid; } }
";

#[cfg(test)]
mod tests {
    use crate::policy::Path;
    use crate::risk::{Question, Row, Rows, Tally};

    fn page(file: &str, quasi: &str, text: &str) -> String {
        let question = Question {
            quasi: vec![Path::parse(quasi).unwrap()],
            sensitive: vec![Path::parse("<s>").unwrap()],
            subject: None,
            threshold: 5,
        };
        let mut tally = Tally::new(&question);
        let mut rows = Rows::open(file, text.as_bytes(), &question.paths()).unwrap();
        let mut row = Row::default();
        while rows.read(&mut row).unwrap() {
            tally.count(&row);
        }
        super::html(file, &tally.figures(0))
    }

    #[test]
    fn a_page_stands_alone_and_has_no_value() {
        let text = "<i>\"&',<s>\ncanary1,canary2\n<b>,3\n";
        let page = page("<u>.csv", "<i>", &text.replace("\"&'", ""));
        for never in [
            "canary", "<i>", "<s>", "<u>", "<b>, ", "<script", "http", "url(", "@import", "NaN",
            "inf",
        ] {
            assert!(!page.contains(never), "{never}");
        }
        assert!(page.contains("<code>&lt;i&gt;</code>"));
        assert!(page.contains("&lt;u&gt;.csv"));
        assert_eq!(page.matches("<svg").count(), 3);
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }

    #[test]
    fn a_page_of_suppressed_rows_says_so() {
        let page = page("f", "a", "a,<s>\n*,1\n,2\n");
        assert!(page.contains("Every row is suppressed"));
        assert!(!page.contains("NaN") && !page.contains("inf"));
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(
            super::escape("<a b=\"c\" d='e'>&\u{1b}"),
            "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;\\u{1b}"
        );
    }
}
