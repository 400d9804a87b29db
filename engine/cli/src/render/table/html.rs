//! The report as one page that needs nothing else: both tables, and the loss of every training stage as a curve.
//!
//! Every text is escaped, and there is no script: a page is data. Unaware of where values come from.
use anneal_engine::event::Step;
use anneal_engine::report::Report;
use std::fmt::Write;

/// Width and height of a picture, and the room around its curve.
const SIZE: (f64, f64) = (640.0, 260.0);
const ROOM: (f64, f64) = (56.0, 28.0);
/// A curve of more points is thinned: a screen has no more columns.
const POINTS: usize = 640;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c1f24; --paper: #ffffff; --faint: #6b7280; --rule: #d8dce2; --line: #2563eb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #14171b; --faint: #9aa3ad; --rule: #30363d; --line: #7aa7ff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; text-align: left; border-bottom: 1px solid var(--rule); }
th { color: var(--faint); font-weight: 600; }
.number { text-align: right; white-space: nowrap; }
figure { margin: 1rem 0; } figcaption { color: var(--faint); }
svg { width: 100%; max-width: 40rem; height: auto; }
svg text { fill: var(--faint); font: 12px system-ui, sans-serif; }
.curve { fill: none; stroke: var(--line); stroke-width: 1.6; } .grid { stroke: var(--rule); }
";

/// The page. `curves` are the steps of training stages by name.
pub(crate) fn page(report: &Report, curves: &[(String, Vec<Step>)]) -> String {
    let title = escape(&report.experiment);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>\n"
    );
    if !report.results.is_empty() {
        page += "<h2>Results</h2>\n";
        page += &table(super::result_cells(report), 1);
    }
    for (name, steps) in curves {
        page += &figure(name, steps);
    }
    page += "<h2>Stages</h2>\n";
    page += &table(super::stage_cells(report), 3);
    page + "</html>\n"
}

fn table((head, rows): super::Cells, numbers: usize) -> String {
    let class = |i: usize| if i >= numbers && head[i] != "state" { " class=\"number\"" } else { "" };
    let line = |tag: &str, cells: &[String]| {
        let mut line = "<tr>".to_owned();
        for (i, cell) in cells.iter().enumerate() {
            // Writing to a string does not fail.
            let _ = write!(line, "<{tag}{}>{}</{tag}>", class(i), escape(cell));
        }
        line + "</tr>\n"
    };
    let body: String = rows.iter().map(|row| line("td", row)).collect();
    format!("<div class=\"wide\"><table>\n{}{body}</table></div>\n", line("th", &head))
}

fn figure(name: &str, steps: &[Step]) -> String {
    let points: Vec<(f64, f64)> =
        steps.iter().filter(|step| step.loss.is_finite()).map(|step| (step.step as f64, step.loss)).collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return String::new() };
    let thin = points.len().div_ceil(POINTS);
    let low = points.iter().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
    let (width, height) = (SIZE.0 - 2.0 * ROOM.0, SIZE.1 - 2.0 * ROOM.1);
    // A single step, or a flat curve, is drawn in the middle of nothing rather than divided by zero.
    let share = |value: f64, from: f64, to: f64| if to > from { (value - from) / (to - from) } else { 0.5 };
    let x = |step: f64| ROOM.0 + width * share(step, first.0, last.0);
    let y = |loss: f64| ROOM.1 + height * (1.0 - share(loss, low, high));
    let mut path = String::new();
    for (i, (step, loss)) in points.iter().enumerate().filter(|(i, _)| i % thin == 0 || i + 1 == points.len()) {
        let _ = write!(path, "{}{:.1} {:.1}", if i == 0 { "M" } else { "L" }, x(*step), y(*loss));
    }
    let name = escape(name);
    let mut svg = format!("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"loss of {name}\">", SIZE.0, SIZE.1);
    for loss in [low, f64::midpoint(low, high), high] {
        let (left, right, at) = (ROOM.0, SIZE.0 - ROOM.0, y(loss));
        let _ = write!(svg, "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
        let _ = write!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{loss:.3}</text>", left - 6.0, at + 4.0);
    }
    for (step, anchor) in [(first.0, "start"), (last.0, "end")] {
        let at = SIZE.1 - 6.0;
        let _ = write!(svg, "<text x=\"{:.1}\" y=\"{at}\" text-anchor=\"{anchor}\">step {step}</text>", x(step));
    }
    format!(
        "<figure><figcaption>{name}: loss by step, last {:.4}</figcaption>\n{svg}<path class=\"curve\" \
         d=\"{path}\"/></svg></figure>\n",
        last.1
    )
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}
