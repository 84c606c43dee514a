//! The dashboards as a table of panels; `tests/dashboards.rs` writes and checks the JSON.

use serde_json::{Value, json};

/// How a panel shows what it asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Lines over time.
    Lines,
    /// The same, stacked.
    Stack,
    /// One number for each series.
    Number,
    /// A row for each series.
    Table,
    /// A bar for each series.
    Bars,
}

pub struct Panel {
    pub title: &'static str,
    /// What it tells, and when to worry.
    pub about: &'static str,
    pub shape: Shape,
    pub unit: &'static str,
    /// Of 24.
    pub width: u32,
    /// Expression and legend. `[job]` is replaced by the filter on the dashboard's variables.
    pub queries: &'static [(&'static str, &'static str)],
    /// From where a number is red, if anything is wrong with a large one.
    pub red: Option<f64>,
}

pub struct Dashboard {
    pub uid: &'static str,
    pub title: &'static str,
    pub about: &'static str,
    pub rows: &'static [(&'static str, &'static [Panel])],
}

const SELECTED: &str = "job=~\"$job\",instance=~\"$instance\"";

/// `metric[a="b"]` with the filter on the dashboard's variables in it.
fn expand(expression: &str) -> String {
    expression.replace("@,", &format!("{SELECTED},")).replace('@', SELECTED)
}

fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn target(shape: Shape, number: usize, (expression, legend): &(&str, &str)) -> Value {
    let letter = char::from(b'A' + number as u8).to_string();
    let instant = matches!(shape, Shape::Table | Shape::Bars);
    json!({
        "refId": letter,
        "datasource": datasource(),
        "expr": expand(expression),
        "legendFormat": legend,
        "instant": instant,
        "range": !instant,
        "format": if shape == Shape::Table { "table" } else { "time_series" },
    })
}

fn panel(panel: &Panel, id: u32, x: u32, y: u32) -> Value {
    let steps = match panel.red {
        None => json!([{ "color": "green", "value": null }]),
        Some(red) => json!([{ "color": "green", "value": null }, { "color": "red", "value": red }]),
    };
    let custom = match panel.shape {
        Shape::Lines => json!({ "lineWidth": 1, "fillOpacity": 8, "showPoints": "never" }),
        Shape::Stack => json!({
            "lineWidth": 1, "fillOpacity": 40, "showPoints": "never",
            "stacking": { "group": "A", "mode": "normal" },
        }),
        _ => json!({}),
    };
    let options = match panel.shape {
        Shape::Lines | Shape::Stack => json!({
            "legend": { "calcs": ["lastNotNull"], "displayMode": "table", "placement": "bottom",
                        "showLegend": true },
            "tooltip": { "mode": "multi", "sort": "desc" },
        }),
        Shape::Number => json!({
            "reduceOptions": { "calcs": ["lastNotNull"] }, "colorMode": "value",
            "graphMode": "area", "justifyMode": "auto", "textMode": "auto",
            "wideLayout": true, "showPercentChange": false, "orientation": "auto",
            "percentChangeColorMode": "standard",
        }),
        Shape::Table => json!({ "showHeader": true, "cellHeight": "sm", "frameIndex": 0 }),
        Shape::Bars => json!({
            "reduceOptions": { "calcs": ["lastNotNull"] }, "orientation": "horizontal",
            "displayMode": "basic", "valueMode": "color", "namePlacement": "auto",
            "showUnfilled": true, "sizing": "auto", "minVizWidth": 8, "minVizHeight": 16,
            "maxVizHeight": 300,
            "legend": { "calcs": [], "displayMode": "list", "placement": "bottom",
                        "showLegend": false },
        }),
    };
    let kind = match panel.shape {
        Shape::Lines | Shape::Stack => "timeseries",
        Shape::Number => "stat",
        Shape::Table => "table",
        Shape::Bars => "bargauge",
    };
    let targets: Vec<_> = panel
        .queries
        .iter()
        .enumerate()
        .map(|(at, query)| target(panel.shape, at, query))
        .collect();
    let mut all = json!({
        "id": id,
        "type": kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": datasource(),
        "gridPos": { "h": height(panel.shape), "w": panel.width, "x": x, "y": y },
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "color": { "mode": if kind == "timeseries" { "palette-classic" } else { "thresholds" } },
                "thresholds": { "mode": "absolute", "steps": steps },
                "custom": custom,
            },
            "overrides": [],
        },
        "options": options,
        "targets": targets,
    });
    if panel.shape == Shape::Table {
        all["transformations"] =
            json!([{ "id": "organize", "options": { "excludeByName": { "Time": true } } }]);
    }
    all
}

fn height(shape: Shape) -> u32 {
    if shape == Shape::Number { 4 } else { 8 }
}

fn variable(name: &str, label: &str, query: &str) -> Value {
    json!({
        "name": name, "label": label, "type": "query", "datasource": datasource(),
        "query": { "query": query, "refId": name }, "refresh": 2, "multi": true,
        "includeAll": true, "allValue": ".*",
        "current": { "text": ["All"], "value": ["$__all"], "selected": true }, "sort": 1,
        "options": [], "regex": "", "hide": 0,
    })
}

impl Dashboard {
    pub fn json(&self) -> Value {
        let mut panels = Vec::new();
        let (mut id, mut y) = (0, 0);
        let mut next = || {
            id += 1;
            id
        };
        for (title, members) in self.rows {
            panels.push(json!({
                "id": next(), "type": "row", "title": title, "collapsed": false, "panels": [],
                "gridPos": { "h": 1, "w": 24, "x": 0, "y": y },
            }));
            y += 1;
            let (mut x, mut tallest) = (0, 0);
            for member in *members {
                if x + member.width > 24 {
                    (x, y) = (0, y + tallest);
                    tallest = 0;
                }
                panels.push(panel(member, next(), x, y));
                x += member.width;
                tallest = tallest.max(height(member.shape));
            }
            y += tallest;
        }
        let links = json!([{
            "asDropdown": false, "icon": "external link", "includeVars": true, "keepTime": true,
            "tags": ["veilstream"], "targetBlank": false, "title": "veilstream", "tooltip": "",
            "type": "dashboards", "url": "",
        }]);
        json!({
            "uid": self.uid,
            "title": self.title,
            "description": self.about,
            "tags": ["veilstream"],
            "schemaVersion": 41,
            "editable": true,
            "graphTooltip": 1,
            "refresh": "10s",
            "time": { "from": "now-1h", "to": "now" },
            "timezone": "browser",
            "links": links,
            "annotations": { "list": [] },
            "templating": { "list": [
                { "name": "datasource", "label": "Data source", "type": "datasource",
                  "query": "prometheus", "refresh": 1, "regex": "", "hide": 0, "options": [],
                  "multi": false, "includeAll": false },
                variable("job", "Job", "label_values(veilstream_build_info, job)"),
                variable(
                    "instance", "Instance",
                    "label_values(veilstream_build_info{job=~\"$job\"}, instance)",
                ),
            ] },
            "panels": panels,
        })
    }
}
