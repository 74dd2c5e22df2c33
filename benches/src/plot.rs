//! Owns plots: lines in SVG, readable on light and on dark ground.
//!
//! Always: the same numbers give the same file. Never: needs a font, a script or another file.

use std::fmt::Write;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 250.0;
/// Room beside, above and below the lines: left, right, top, bottom.
const MARGIN: (f64, f64, f64, f64) = (58.0, 14.0, 30.0, 36.0);
const HEAD: f64 = 34.0;
const LEGEND: f64 = 26.0;
const COLOURS: [&str; 8] = [
    "#2f81f7", "#e5732a", "#2da44e", "#a371f7", "#d1435b", "#8c959f", "#b58900", "#17a2b8",
];

/// One line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    /// What it stands for; the same name has the same colour in all charts.
    pub name: String,
    /// Points from left to right.
    pub points: Vec<(f64, f64)>,
}

/// One field of lines.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chart {
    /// What is shown, with its unit.
    pub title: String,
    /// What goes to the right.
    pub x: String,
    /// Powers of ten up the side, instead of steps from 0.
    pub log: bool,
    /// The lines.
    pub series: Vec<Series>,
}

/// A page of charts, two in a row.
#[must_use]
pub fn svg(title: &str, charts: &[Chart]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for series in charts.iter().flat_map(|chart| &chart.series) {
        if !names.contains(&series.name.as_str()) {
            names.push(&series.name);
        }
    }
    let legend = if names.len() > 1 { LEGEND } else { 0.0 };
    let rows = charts.len().div_ceil(2);
    let (width, height) = (2.0 * WIDTH, HEAD + legend + HEIGHT * number(rows));
    let mut out = String::new();
    let _ = writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">"#
    );
    let _ = writeln!(out, "<title>{}</title>", escaped(title));
    out.push_str(STYLE);
    let _ = writeln!(
        out,
        r#"<text class="head" x="{}" y="22">{}</text>"#,
        MARGIN.0,
        escaped(title)
    );
    if names.len() > 1 {
        let mut x = MARGIN.0;
        for (n, name) in names.iter().enumerate() {
            let y = HEAD + 10.0;
            let _ = writeln!(
                out,
                r#"<rect x="{x}" y="{}" width="12" height="4" fill="{}"/><text x="{}" y="{}">{}</text>"#,
                y - 4.0,
                colour(n),
                x + 17.0,
                y + 2.0,
                escaped(name)
            );
            x += 34.0 + 6.6 * number(name.chars().count());
        }
    }
    for (n, chart) in charts.iter().enumerate() {
        let (x, y) = (
            WIDTH * number(n % 2),
            HEAD + legend + HEIGHT * number(n / 2),
        );
        let _ = writeln!(out, r#"<g transform="translate({x} {y})">"#);
        draw(&mut out, chart, &names);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

const STYLE: &str = r#"<style>
text { font: 11px system-ui, sans-serif; fill: #57606a }
.head { font-size: 14px; font-weight: 600; fill: #24292f }
.title { font-weight: 600; fill: #24292f }
.grid { stroke: #8c959f; stroke-opacity: .3; stroke-width: 1 }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round }
.end { text-anchor: end }
.mid { text-anchor: middle }
@media (prefers-color-scheme: dark) { text { fill: #9da7b3 } .head, .title { fill: #e6edf3 } }
</style>
"#;

fn colour(n: usize) -> &'static str {
    COLOURS[n % COLOURS.len()]
}

#[expect(clippy::cast_precision_loss, reason = "a few charts and letters")]
const fn number(n: usize) -> f64 {
    n as f64
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// A step of 1, 2 or 5 times a power of ten that makes about five of `span`.
fn step(span: f64) -> f64 {
    let raw = span / 5.0;
    let power = 10_f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0]
        .into_iter()
        .map(|m| m * power)
        .find(|step| *step >= raw)
        .unwrap_or(10.0 * power)
}

/// A number as short as it can be told.
fn label(value: f64) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.to_owned()
}

/// Marks up the side, and how far up each value is, from 0 to 1.
fn scale(values: &[f64], log: bool) -> (Vec<f64>, Box<dyn Fn(f64) -> f64>) {
    let top = values
        .iter()
        .copied()
        .fold(f64::MIN_POSITIVE, f64::max)
        .max(1e-9);
    if log {
        let least = values
            .iter()
            .copied()
            .filter(|v| *v > 0.0)
            .fold(top, f64::min);
        let (from, mut to) = (least.log10().floor(), top.log10().ceil());
        if to <= from {
            to = from + 1.0;
        }
        let mut marks = Vec::new();
        let mut power = from;
        while power <= to {
            marks.push(10_f64.powf(power));
            power += 1.0;
        }
        let up = move |v: f64| ((v.max(1e-12).log10() - from) / (to - from)).clamp(0.0, 1.0);
        return (marks, Box::new(up));
    }
    let by = step(top);
    let to = (top / by).ceil() * by;
    let mut marks = vec![0.0];
    while marks.last().is_some_and(|last| *last < to - by / 2.0) {
        marks.push(number(marks.len()) * by);
    }
    (marks, Box::new(move |v| (v / to).clamp(0.0, 1.0)))
}

fn draw(out: &mut String, chart: &Chart, names: &[&str]) {
    let (left, right, top, bottom) = MARGIN;
    let (width, height) = (WIDTH - left - right, HEIGHT - top - bottom);
    let _ = writeln!(
        out,
        r#"<text class="title" x="{left}" y="{}">{}</text>"#,
        top - 12.0,
        escaped(&chart.title)
    );
    let points: Vec<(f64, f64)> = chart
        .series
        .iter()
        .flat_map(|series| series.points.iter().copied())
        .collect();
    if points.is_empty() {
        return;
    }
    let values: Vec<f64> = points.iter().map(|(_, y)| *y).collect();
    let (marks, up) = scale(&values, chart.log);
    let y_of = |v: f64| top + height * (1.0 - up(v));
    for mark in marks {
        let y = y_of(mark);
        let _ = writeln!(
            out,
            r#"<path class="grid" d="M{left} {y:.1}H{:.1}"/><text class="end" x="{}" y="{:.1}">{}</text>"#,
            left + width,
            left - 6.0,
            y + 4.0,
            label(mark)
        );
    }
    let first = points.iter().map(|(x, _)| *x).fold(f64::MAX, f64::min);
    let last = points.iter().map(|(x, _)| *x).fold(f64::MIN, f64::max);
    let span = (last - first).max(1e-9);
    let x_of = |v: f64| left + width * (v - first) / span;
    let by = step(span).max(1.0);
    let mut mark = (first / by).ceil() * by;
    while mark <= last {
        let _ = writeln!(
            out,
            r#"<text class="mid" x="{:.1}" y="{}">{}</text>"#,
            x_of(mark),
            top + height + 16.0,
            label(mark)
        );
        mark += by;
    }
    let _ = writeln!(
        out,
        r#"<text class="end" x="{}" y="{}">{}</text>"#,
        left + width,
        top + height + 30.0,
        escaped(&chart.x)
    );
    for series in &chart.series {
        let n = names
            .iter()
            .position(|name| *name == series.name)
            .unwrap_or(0);
        let mut path = String::new();
        for (x, y) in &series.points {
            let letter = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{:.1} {:.1}", x_of(*x), y_of(*y));
        }
        let _ = writeln!(
            out,
            r#"<path class="line" stroke="{}" d="{path}"/>"#,
            colour(n)
        );
        // Few points are shown as such.
        if series.points.len() <= 20 {
            for (x, y) in &series.points {
                let _ = writeln!(
                    out,
                    r#"<circle cx="{:.1}" cy="{:.1}" r="2.6" fill="{}"/>"#,
                    x_of(*x),
                    y_of(*y),
                    colour(n)
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_numbers() {
        for (span, expected) in [(5.0, 1.0), (100.0, 20.0), (0.3, 0.1), (999.0, 200.0)] {
            assert!((step(span) - expected).abs() < 1e-9, "{span}");
        }
    }

    #[test]
    fn a_plot_has_each_line_and_says_what_it_is() {
        let series = |name: &str| Series {
            name: name.to_owned(),
            points: vec![(1.0, 3.0), (2.0, 400.0)],
        };
        for log in [false, true] {
            let text = svg(
                "A < B",
                &[Chart {
                    title: "seconds".to_owned(),
                    x: "checkpoint".to_owned(),
                    log,
                    series: vec![series("one"), series("other")],
                }],
            );
            assert_eq!(text.matches(r#"class="line""#).count(), 2);
            assert!(text.contains("A &lt; B") && text.contains("seconds"));
            assert!(!text.contains("NaN") && !text.contains("inf"));
            assert!(text.ends_with("</svg>\n"));
        }
        assert!(svg("nothing", &[Chart::default()]).ends_with("</svg>\n"));
    }
}
