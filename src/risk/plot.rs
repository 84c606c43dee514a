//! Plots as SVG, to stand in the HTML report, whose style sheet has their colours.

use super::{Bin, Figures, share};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 274.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 54.0;

/// A bar for each bin, as high as it has groups. Those below `threshold` stand out.
pub fn bars(title: &str, axis: &str, bins: &[Bin], threshold: u64) -> String {
    let highest = bins.iter().map(|bin| bin.groups).max().unwrap_or_default().max(1);
    let records: u64 = bins.iter().map(|bin| bin.records).sum();
    let slot = (WIDTH - LEFT - RIGHT) / bins.len().max(1) as f64;
    let mut svg = begin(title);
    for tick in ticks(highest) {
        let y = height(share(tick, highest));
        svg += &format!(
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 5.0,
        );
    }
    for (at, bin) in bins.iter().enumerate() {
        let middle = LEFT + slot * (at as f64 + 0.5);
        let top = height(share(bin.groups, highest));
        let low = if bin.from < threshold { " low" } else { "" };
        let bar = (slot * 0.64).min(72.0);
        svg += &format!(
            "<g><title>{}: {} groups, {} of the records</title>\
             <rect class=\"bar{low}\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{bar:.1}\" height=\"{:.1}\"/>\
             <text class=\"tick\" x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bin.label(),
            bin.groups,
            super::percent(share(bin.records, records)),
            middle - bar / 2.0,
            height(0.0) - top,
            height(0.0) + 20.0,
            bin.label(),
        );
        if bin.groups > 0 {
            svg += &format!(
                "<text class=\"count\" x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                top - 6.0,
                bin.groups,
            );
        }
        svg += "</g>";
    }
    svg += &end(axis);
    svg
}

/// The share of records in groups of at most a size, by that size, whose axis is logarithmic.
pub fn cumulative(title: &str, figures: &Figures) -> String {
    let greatest = figures.sizes.last().map_or(1, |size| size.size).max(figures.threshold).max(2);
    let x = |size: u64| {
        let along = (size.max(1) as f64).ln() / (greatest as f64).ln();
        LEFT + along * (WIDTH - LEFT - RIGHT)
    };
    let mut svg = begin(title);
    for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let y = height(part);
        svg += &format!(
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.0} %</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 5.0,
            part * 100.0,
        );
    }
    for size in sizes_to_name(greatest) {
        svg += &format!(
            "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{size}</text>",
            x(size),
            height(0.0) + 20.0,
        );
    }
    let mut line = format!("M{LEFT:.1} {:.1}", height(0.0));
    let mut passed = 0;
    for one in &figures.sizes {
        passed += one.size * one.groups;
        line += &format!("H{:.1}V{:.1}", x(one.size), height(share(passed, figures.records)));
    }
    line += &format!("H{:.1}", WIDTH - RIGHT);
    svg += &format!(
        "<path class=\"area\" d=\"{line}V{:.1}H{LEFT:.1}Z\"/><path class=\"line\" d=\"{line}\"/>",
        height(0.0)
    );
    let at = x(figures.threshold);
    let (anchor, by) = if at > WIDTH / 2.0 { ("end", -6.0) } else { ("start", 6.0) };
    svg += &format!(
        "<line class=\"limit\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{:.1}\"/>\
         <text class=\"limit-name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">threshold {}: {} below</text>",
        height(0.0),
        at + by,
        TOP - 8.0,
        figures.threshold,
        super::percent(figures.below_threshold.share),
    );
    svg += &end("size of the group (logarithmic)");
    svg
}

fn begin(title: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">")
}

fn end(axis: &str) -> String {
    format!(
        "<line class=\"base\" x1=\"{LEFT}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>\
         <text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{axis}</text></svg>",
        height(0.0),
        WIDTH - RIGHT,
        height(0.0),
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 8.0,
    )
}

/// Where a share of the whole height is.
fn height(part: f64) -> f64 {
    HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)
}

/// At most five round numbers up to the highest.
fn ticks(highest: u64) -> Vec<u64> {
    let mut step = 1;
    for factor in [2, 5, 10].into_iter().cycle() {
        if highest / step <= 4 {
            break;
        }
        step = match factor {
            5 => step / 2 * 5,
            _ => step * 2,
        };
    }
    (0..=highest / step).map(|at| at * step).collect()
}

/// 1, 2, 5, 10, 20 ... as far as they have room.
fn sizes_to_name(greatest: u64) -> Vec<u64> {
    let factors: &[u64] = if greatest > 5_000 { &[1] } else { &[1, 2, 5] };
    let powers = (0..19).map(|power| 10_u64.pow(power)).take_while(|power| *power <= greatest);
    let sizes =
        powers.flat_map(|power| factors.iter().map(move |factor| power.saturating_mul(*factor)));
    sizes.filter(|size| *size <= greatest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_few_and_round() {
        assert_eq!(ticks(1), [0, 1]);
        assert_eq!(ticks(4), [0, 1, 2, 3, 4]);
        assert_eq!(ticks(9), [0, 2, 4, 6, 8]);
        assert_eq!(ticks(24), [0, 5, 10, 15, 20]);
        assert_eq!(ticks(99), [0, 20, 40, 60, 80]);
        assert_eq!(ticks(541), [0, 200, 400]);
        assert!(ticks(u64::MAX).len() <= 5);
        assert_eq!(sizes_to_name(30), [1, 2, 5, 10, 20]);
        assert!(sizes_to_name(u64::MAX).len() <= 19);
    }
}
