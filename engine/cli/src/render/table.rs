//! The report's tables, for a terminal or for Markdown; as a page in `html`.
//!
//! Unaware of where values come from.
pub(crate) mod html;
#[cfg(test)]
mod tests;

use anneal_engine::report::{Column, Report, ResultRow, StageState};
use comfy_table::{Cell, CellAlignment, LineStyle, Table, TableStyle, presets};

/// For whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// A terminal.
    Text,
    /// A page that somebody renders.
    Markdown,
}

/// The metric of a stage's own peak of GPU memory, as its memory pool counted it.
const GPU_PEAK: &str = "gpu_peak_mib";
/// Titles of both memories where there are two.
const HOST_TITLE: &str = "host peak MiB";
const GPU_TITLE: &str = "GPU peak MiB";

/// Title of what an ablation changed.
const CHANGED: &str = "changed";
/// What a change costs or saves is told of these.
const COMPARED: &[&str] = &["train_seconds", "tokens_per_second", "peak_mib", GPU_PEAK];
/// Columns of words.
const WORDS: &[&str] = &["state", CHANGED];

/// Both tables, one below the other.
pub(crate) fn both(report: &Report, look: Look) -> String {
    let stages = stages(report, look);
    let why = failures(report);
    let why = if why.is_empty() { why } else { format!("\n{why}") };
    if report.results.is_empty() {
        format!("{stages}{why}")
    } else {
        format!("{}\n\n{stages}{why}", results(report, look))
    }
}

/// The results side by side.
pub(crate) fn results(report: &Report, look: Look) -> String {
    let (head, rows) = result_cells(report);
    draw(head, rows, 1, look)
}

/// Every stage with its time and memory.
pub(crate) fn stages(report: &Report, look: Look) -> String {
    let (head, rows) = stage_cells(report);
    draw(head, rows, 3, look)
}

type Cells = (Vec<String>, Vec<Vec<String>>);

fn result_cells(report: &Report) -> Cells {
    let unfinished = report.results.iter().any(|row| row.status != StageState::Done);
    let mut head = vec!["result".to_owned()];
    let swept = !report.axes.is_empty();
    let one_at_a_time = is_ablation(report);
    head.extend(swept.then(|| "cell".to_owned()));
    if one_at_a_time {
        head.push(CHANGED.to_owned());
    } else {
        head.extend(report.axes.iter().cloned());
    }
    let gpu = report.columns.iter().any(|column| column.name == GPU_PEAK);
    // Beside the GPU's memory it must be clear that this is the host's.
    let title = |column: &Column| match &*column.name {
        "peak_mib" if gpu => HOST_TITLE.to_owned(),
        _ => column.title.to_string(),
    };
    head.extend(report.columns.iter().map(title));
    head.extend(unfinished.then(|| "state".to_owned()));
    let row = |row: &ResultRow| {
        let as_it_is = one_at_a_time.then(|| as_it_is(report, row)).flatten();
        let value = |column: &Column| {
            let Some(value) = row.values.get(&*column.name) else { return "-".to_owned() };
            let before =
                as_it_is.filter(|_| COMPARED.contains(&&*column.name)).and_then(|row| row.values.get(&*column.name));
            column.format.text(*value) + &before.map_or(String::new(), |before| more_or_less(*value, *before))
        };
        let mut cells = vec![row.label.clone()];
        cells.extend(swept.then(|| row.cell.clone().unwrap_or_else(|| "-".to_owned())));
        if one_at_a_time {
            let set = row.setting.first_key_value();
            cells.push(set.map_or("-".to_owned(), |(axis, value)| format!("{axis}={}", plain(value))));
        } else {
            cells.extend(report.axes.iter().map(|axis| row.setting.get(axis).map_or("-".to_owned(), plain)));
        }
        cells.extend(report.columns.iter().map(value));
        cells.extend(unfinished.then(|| row.status.to_string()));
        cells
    };
    (head, report.results.iter().map(row).collect())
}

/// Whether one thing is changed at a time, of several.
fn is_ablation(report: &Report) -> bool {
    let set = |most| move |row: &ResultRow| row.setting.len() <= most;
    report.axes.len() > 1 && report.results.iter().all(set(1)) && report.results.iter().any(set(0))
}

/// The row of an ablation that a changed one is held against.
fn as_it_is<'a>(report: &'a Report, row: &ResultRow) -> Option<&'a ResultRow> {
    let same = |other: &&ResultRow| other.label == row.label && other.setting.is_empty();
    report.results.iter().find(same).filter(|_| !row.setting.is_empty())
}

/// How much more or less a value is than another.
fn more_or_less(value: f64, before: f64) -> String {
    let percent = 100.0 * (value / before - 1.0);
    if percent.is_finite() { format!(" ({percent:+.0} %)") } else { String::new() }
}

/// A swept value as people read it.
fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The best result in a line: which, and what it measured.
pub(crate) fn best(report: &Report, metric: &str, row: Option<&ResultRow>) -> String {
    let Some(row) = row else { return format!("best {metric}: no result that is done has one") };
    let set: Vec<String> = row.setting.iter().map(|(key, value)| format!("{key}={}", plain(value))).collect();
    let cell = row.cell.iter().map(|cell| format!(" [{cell}]")).collect::<String>();
    let value =
        |column: &Column| Some(format!("{} {}", column.title, column.format.text(*row.values.get(&*column.name)?)));
    let values: Vec<String> = report.columns.iter().filter_map(value).collect();
    format!(
        "best {metric}: {}{cell} {}({})",
        row.label,
        set.iter().map(|s| format!("{s} ")).collect::<String>(),
        values.join(", ")
    )
}

/// Why results are missing, a line each; stages that failed for the same reason once.
fn failures(report: &Report) -> String {
    let told = report.stages.iter().filter_map(|row| Some((row, row.status.why()?)));
    told.map(|(row, why)| format!("\n{}: {}: {why}", row.name, row.status)).collect()
}

fn stage_cells(report: &Report) -> Cells {
    let gpu = report.stages.iter().any(|row| row.metrics.contains_key(GPU_PEAK));
    let memory: &[&str] = if gpu { &[HOST_TITLE, GPU_TITLE] } else { &["peak MiB"] };
    let head = [&["stage", "kind", "state", "seconds"], memory, &["key", "output"]].concat();
    let head = head.into_iter().map(str::to_owned).collect();
    let row = |row: &anneal_engine::report::StageRow| {
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        let digest = |value: Option<anneal_engine::key::Digest>| value.map_or("-".to_owned(), |value| value.short());
        let (name, kind, state) = (row.name.clone(), row.kind.to_owned(), row.status.to_string());
        let mut cells = vec![name, kind, state, number(row.seconds), number(row.peak_mib)];
        cells.extend(gpu.then(|| number(row.metrics.get(GPU_PEAK).copied())));
        cells.extend([digest(row.key), digest(row.output)]);
        cells
    };
    (head, report.stages.iter().map(row).collect())
}

/// Columns from `numbers` on are aligned to the right, but for words.
pub(crate) fn draw(head: Vec<String>, rows: Vec<Vec<String>>, numbers: usize, look: Look) -> String {
    let safe = |text: &str| safe(text, look);
    let mut table = Table::new();
    table.load_style(match look {
        // One line below the titles; more would only be noise.
        Look::Text => TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')),
        Look::Markdown => presets::ASCII_MARKDOWN,
    });
    let right = |i: usize| i >= numbers && head.get(i).is_none_or(|title| !WORDS.contains(&title.as_str()));
    let cell = |(i, text): (usize, &String)| {
        let cell = Cell::new(safe(text));
        if right(i) { cell.set_alignment(CellAlignment::Right) } else { cell }
    };
    table.set_header(head.iter().enumerate().map(cell).collect::<Vec<_>>());
    for row in &rows {
        table.add_row(row.iter().enumerate().map(cell).collect::<Vec<_>>());
    }
    table.trim_fmt()
}

/// Text that does nothing but be read.
pub(crate) fn safe(text: &str, look: Look) -> String {
    match look {
        Look::Text => text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
        Look::Markdown => markdown(text),
    }
}

/// Text that stays text inside a cell of a Markdown table.
fn markdown(text: &str) -> String {
    let mut safe = String::new();
    let mut before = ' ';
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            // Inside a word it is only itself.
            '_' if before.is_alphanumeric() && rest.peek().is_some_and(|next| next.is_alphanumeric()) => safe.push(c),
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '#' | '~' => safe.extend(['\\', c]),
            '&' => safe.push_str("&amp;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
        before = c;
    }
    safe
}
