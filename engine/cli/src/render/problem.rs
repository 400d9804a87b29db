//! Errors for people (the line, a caret, a hint) and for machines (JSON).
//!
//! Unaware of streams and terminals.
use crate::exit::Error;
use anneal_engine::Failure;
use anneal_engine::diagnostic::{Diagnostic, Severity};
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// More characters of a line than this are not shown; nobody could read them.
const LONGEST_LINE: usize = 2000;

/// An error as people read it; empty if there is nothing to say.
pub(crate) fn text(error: &Error, color: bool) -> String {
    match error {
        Error::Manifest(problems) => {
            let texts: Vec<String> = problems.0.iter().map(|problem| diagnostic(problem, color)).collect();
            let files: BTreeSet<&str> = problems.0.iter().map(Diagnostic::file).collect();
            let files = files.into_iter().collect::<Vec<_>>().join(" and ");
            let count = match problems.0.len() {
                1 => "1 problem".to_owned(),
                many => format!("{many} problems"),
            };
            format!("{}\n\n{count} in {files}", texts.join("\n\n"))
        }
        Error::Failure(error) | Error::Usage(error) => failure(error, color),
        Error::ClosedPipe => String::new(),
    }
}

/// An error as machines read it.
pub(crate) fn json(error: &Error) -> Option<Value> {
    match error {
        Error::Manifest(problems) => Some(json!({ "problems": problems.0 })),
        Error::Failure(failure) | Error::Usage(failure) => Some(json!({ "failure": failure })),
        Error::ClosedPipe => None,
    }
}

/// A failure: what, and what to do.
pub(crate) fn failure(failure: &Failure, color: bool) -> String {
    let line = |level: Level<'static>, text: &str| {
        renderer(color).render(&[Group::with_title(level.primary_title(clean(text)))])
    };
    let what = line(Level::ERROR, &failure.message);
    failure.hint.as_ref().map_or(what.clone(), |hint| format!("{what}\n{}", line(Level::HELP, hint)))
}

/// A problem of a manifest with its line and a caret.
pub(crate) fn diagnostic(problem: &Diagnostic, color: bool) -> String {
    let level = if problem.severity == Severity::Error { Level::ERROR } else { Level::WARNING };
    let group = Group::with_title(level.primary_title(clean(&problem.message)));
    let text = &problem.place.source.text;
    let group = if text.is_empty() {
        group.element(Origin::path(clean(problem.file())))
    } else {
        let (line, span) = excerpt(text, problem.span());
        let annotation = AnnotationKind::Primary.span(span);
        let annotation = if problem.label.is_empty() { annotation } else { annotation.label(clean(&problem.label)) };
        let snippet = Snippet::source(line).line_start(problem.line).path(clean(problem.file()));
        group.element(snippet.annotation(annotation))
    };
    let group = group.elements(problem.hint.as_ref().map(|hint| Level::HELP.message(clean(hint))));
    renderer(color).render(&[group])
}

fn renderer(color: bool) -> Renderer {
    if color { Renderer::styled() } else { Renderer::plain() }
}

/// The line in which a span begins, and the part of the span that lies in it.
fn excerpt(text: &str, span: std::ops::Range<usize>) -> (String, std::ops::Range<usize>) {
    let (before, after) = text.split_at_checked(span.start).unwrap_or((text, ""));
    let head = &before[before.rfind('\n').map_or(0, |i| i + 1)..];
    let tail = &after[..after.find('\n').unwrap_or(after.len())];
    // A very long line is cut on both sides of the caret.
    let skip = head.char_indices().rev().nth(LONGEST_LINE / 2).map_or(0, |(i, _)| i);
    let keep = tail.char_indices().nth(LONGEST_LINE).map_or(tail.len(), |(i, _)| i);
    let marked = tail.get(..span.len().min(keep)).unwrap_or(&tail[..keep]);
    let (head, marked_text, rest) = (clean(&head[skip..]), clean(marked), clean(&tail[marked.len()..keep]));
    let range = head.len()..head.len() + marked_text.len();
    (format!("{head}{marked_text}{rest}"), range)
}

/// Without characters that would move the cursor or hide text; tabs stay.
fn clean(text: &str) -> String {
    let shown = |c: char| match c {
        '\t' => c,
        '\u{feff}' | '\r' => '\u{200b}',
        c if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c) => {
            '\u{fffd}'
        }
        c => c,
    };
    text.chars().map(shown).filter(|c| *c != '\u{200b}').collect()
}

#[cfg(test)]
mod tests;
