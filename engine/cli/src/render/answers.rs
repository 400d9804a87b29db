//! A sample as a person reads it: its table aligned, its text and question wrapped, and the answers of all models beside
//! the sample answer, or below one another where the terminal is narrow.
//!
//! Unaware of where answers come from.
#[cfg(test)]
mod tests;

use super::text::{clean, pad, terminal_width, wrap};
use crate::args::Color;
use crate::output;
use anneal_stages::data::token_set::Split;
use anneal_stages::infer::Answer;
use anneal_stages::metric::Mark;
use anneal_stages::review::Page;
use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

/// The narrowest column of an answer that people like to read.
const COLUMN: usize = 26;
/// What parts columns.
const GAP: &str = "   ";

/// For whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// Columns of the terminal.
    pub(crate) width: usize,
    /// In colour.
    pub(crate) color: bool,
}

impl Look {
    /// As standard output is.
    pub(crate) fn of_terminal(color: Color) -> Self {
        Self { width: terminal_width(), color: output::colored(color, &std::io::stdout()) }
    }

    fn dress(self, code: &str, text: &str) -> String {
        if self.color && !text.trim().is_empty() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.dress("1", text)
    }

    fn good(self, text: &str) -> String {
        self.dress("32", text)
    }

    fn bad(self, text: &str) -> String {
        self.dress("31", text)
    }

    fn dim(self, text: &str) -> String {
        self.dress("2", text)
    }
}

/// What a model said.
#[derive(Debug)]
pub(crate) struct Said<'a> {
    /// Its name.
    pub(crate) model: &'a str,
    /// Its answer and what that is worth.
    pub(crate) answer: Option<(&'a Answer, Mark)>,
    /// Why there is none.
    pub(crate) lacking: Option<&'a str>,
}

/// The whole page, with a newline at its end.
pub(crate) fn page(sample: &Page, split: &str, title: &str, said: &[Said<'_>], look: &Look) -> String {
    let mut text = heading(sample, split, look);
    if !sample.table.is_empty() {
        text += &format!("\n{}\n{}\n", look.bold("Table"), table(&sample.table, look.width));
    }
    if !sample.paragraphs.is_empty() {
        text += &format!("\n{}\n{}", look.bold("Text"), paragraphs(&sample.paragraphs, look.width));
    }
    text += &format!("\n{}\n{}", look.bold("Question"), indented(&clean(sample.question.trim()), 1, look.width));
    text += &format!("\n{}\n\n", look.bold(title));
    let blocks: Vec<Block> = std::iter::once(Block::reference(sample)).chain(said.iter().map(Block::of)).collect();
    let column = (look.width + GAP.len()) / blocks.len() - GAP.len().min(look.width / blocks.len());
    text + &if column >= COLUMN { side_by_side(&blocks, column, look) } else { stacked(&blocks, look) }
}

/// `sid 100 · uid 5f2c · span, table and text`, and a line below.
fn heading(sample: &Page, split: &str, look: &Look) -> String {
    let word = |value: serde_json::Value| value.as_str().map(str::to_owned);
    let kind = sample.answer_type.and_then(|kind| word(serde_json::json!(kind)));
    let from = sample.answer_from.and_then(|from| word(serde_json::json!(from)));
    let from = from.map(|from| from.replace('-', " and "));
    let what: Vec<String> = kind.into_iter().chain(from).collect();
    let mut parts = vec![format!("sid {}", sample.sid), format!("uid {}", clean(&sample.uid))];
    // Nearly always it is the split to be measured on.
    parts.extend((split != Split::Eval.name()).then(|| format!("split {split}")));
    parts.extend((!what.is_empty()).then(|| what.join(", ")));
    let lines: Vec<String> = wrap(&parts.join(" · "), look.width).iter().map(|line| look.bold(line)).collect();
    format!("{}\n{}\n", lines.join("\n"), "─".repeat(look.width))
}

/// The table, columns aligned: numbers to the right.
fn table(rows: &[Vec<String>], width: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let right: Vec<bool> = (0..columns).map(|column| is_numeric(rows, column)).collect();
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none()));
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
    for row in rows {
        let cell = |column: usize| {
            let cell = Cell::new(clean(row.get(column).map_or("", String::as_str).trim()));
            if right[column] { cell.set_alignment(CellAlignment::Right) } else { cell }
        };
        table.add_row((0..columns).map(cell).collect::<Vec<_>>());
    }
    table.trim_fmt()
}

/// Whether most of what stands in a column below its first row are numbers, dashes aside.
fn is_numeric(rows: &[Vec<String>], column: usize) -> bool {
    let said = |row: &Vec<String>| row.get(column).map(|cell| cell.trim().to_owned()).filter(|cell| !cell.is_empty());
    let cells: Vec<String> = rows.iter().skip(1).filter_map(said).collect();
    let number = |cell: &&String| {
        !cell.chars().any(char::is_alphabetic)
            && (cell.chars().any(|c| c.is_ascii_digit()) || cell.contains(['-', '—', '–']))
    };
    column > 0 && 2 * cells.iter().filter(number).count() > cells.len()
}

fn paragraphs(paragraphs: &[(String, String)], width: usize) -> String {
    let label = paragraphs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, said) in paragraphs {
        for (at, line) in wrap(&clean(said.trim()), width.saturating_sub(label + 3)).iter().enumerate() {
            let name = if at == 0 { clean(name) } else { String::new() };
            text += format!(" {name:>label$}  {line}").trim_end();
            text.push('\n');
        }
    }
    text
}

fn indented(text: &str, indent: usize, width: usize) -> String {
    let lines = wrap(text, width.saturating_sub(indent));
    lines.iter().map(|line| format!("{:indent$}{line}", "").trim_end().to_owned() + "\n").collect()
}

/// A model's answer in parts.
struct Block {
    name: String,
    /// Whether it is right, and its marks in words; not of the sample answer.
    marks: Option<(bool, String)>,
    /// What is odd about it.
    remarks: Vec<String>,
    text: String,
    /// What explains it.
    footnote: Option<String>,
}

impl Block {
    fn reference(sample: &Page) -> Self {
        let derivation = sample.derivation.trim();
        let footnote = (!derivation.is_empty()).then(|| format!("computed as {}", clean(derivation)));
        let text = clean(sample.sample_answer.trim());
        Self { name: "sample answer".to_owned(), marks: None, remarks: Vec::new(), text, footnote }
    }

    fn of(said: &Said<'_>) -> Self {
        let name = clean(said.model);
        let Some((answer, mark)) = &said.answer else {
            let why = said.lacking.unwrap_or("it was not asked");
            let remarks = vec![format!("no answer: {}", clean(why))];
            return Self { name, marks: None, remarks, text: String::new(), footnote: None };
        };
        let scale = mark.scale.map(|scale| format!(" · scale {scale:.0}")).unwrap_or_default();
        let marks = format!("EM {:.0} · F1 {:.2}{scale}", mark.em, mark.f1);
        let mut remarks = Vec::new();
        if mark.formed == Some(false) {
            remarks.push("not in the asked form".to_owned());
        }
        if !answer.ended {
            remarks.push(format!("cut off after {} tokens", answer.new_tokens));
        }
        let text = match clean(answer.answer.trim()) {
            empty if empty.is_empty() => "(nothing)".to_owned(),
            text => text,
        };
        Self { name, marks: Some((mark.em > 0.5, marks)), remarks, text, footnote: None }
    }

    /// Its lines below its name, each with how it is dressed.
    fn lines(&self, width: usize) -> Vec<(Dress, String)> {
        let wrapped = |dress: Dress, text: &str| wrap(text, width).into_iter().map(move |line| (dress, line));
        let mut lines = Vec::new();
        match &self.marks {
            Some((true, marks)) => lines.extend(wrapped(Dress::Good, marks)),
            Some((false, marks)) => lines.extend(wrapped(Dress::Bad, marks)),
            None => {}
        }
        self.remarks.iter().for_each(|remark| lines.extend(wrapped(Dress::Dim, remark)));
        if !self.text.is_empty() {
            lines.extend(wrapped(Dress::Plain, &self.text));
        }
        self.footnote.iter().for_each(|note| lines.extend(wrapped(Dress::Dim, note)));
        lines
    }
}

#[derive(Debug, Clone, Copy)]
enum Dress {
    Plain,
    Good,
    Bad,
    Dim,
}

impl Dress {
    fn put_on(self, text: &str, look: &Look) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Good => look.good(text),
            Self::Bad => look.bad(text),
            Self::Dim => look.dim(text),
        }
    }
}

/// The blocks as columns.
fn side_by_side(blocks: &[Block], column: usize, look: &Look) -> String {
    let names: Vec<Vec<String>> = blocks.iter().map(|block| wrap(&block.name, column)).collect();
    let most = names.iter().map(Vec::len).max().unwrap_or(0);
    let mut text = String::new();
    for at in 0..most {
        let cells = names.iter().map(|lines| look.bold(&pad(lines.get(at).map_or("", String::as_str), column)));
        text += &row(cells);
    }
    text += &row(blocks.iter().map(|_| "─".repeat(column)));
    let lines: Vec<Vec<(Dress, String)>> = blocks.iter().map(|block| block.lines(column)).collect();
    for at in 0..lines.iter().map(Vec::len).max().unwrap_or(0) {
        let cells = lines.iter().map(|lines| match lines.get(at) {
            Some((dress, line)) => dress.put_on(&pad(line, column), look),
            None => " ".repeat(column),
        });
        text += &row(cells);
    }
    text
}

fn row(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned() + "\n"
}

/// The blocks below one another.
fn stacked(blocks: &[Block], look: &Look) -> String {
    let mut text = String::new();
    for (at, block) in blocks.iter().enumerate() {
        let apart = if at > 0 { "\n" } else { "" };
        text += &format!("{apart}{}\n", look.bold(&block.name));
        for (dress, line) in block.lines(look.width.saturating_sub(2)) {
            text += format!("  {}", dress.put_on(&line, look)).trim_end();
            text.push('\n');
        }
    }
    text
}
