//! Written values against declared parameters: types, ranges, unknown and missing keys, defaults, absolute paths.
//!
//! Unaware of stages and ports.
use super::tree::{Entry, Item, Table, Tree};
use super::words::{nearest, shape_words, suggest};
use crate::diagnostic::{Diagnostic, Place};
use crate::param::{Param, Shape};
use rayon::prelude::*;
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Fewer things than this are not worth a second thread; also what one thread takes at a time.
const MANY: usize = 256;

/// Where relative paths begin, and where problems go.
pub(super) struct Checker<'a> {
    /// For paths written in the manifest.
    pub(super) root: &'a Path,
    /// For paths written in `--set`.
    pub(super) cwd: &'a Path,
    /// The text is no valid TOML: what seems to be missing may be there.
    pub(super) recovered: bool,
    pub(super) problems: Vec<Diagnostic>,
}

/// A table that parameters are read from, with what messages need to know of it.
pub(super) struct Owner<'a> {
    /// "stage kind `train-lora`", "table `dataset`".
    pub(super) name: &'a str,
    /// Where a missing key is reported.
    pub(super) place: &'a Place,
    /// Keys that are read elsewhere.
    pub(super) reserved: &'a [&'a str],
}

impl Checker<'_> {
    /// Looks at things one by one, many of them on all cores; problems stay in the order of the things.
    pub(super) fn each<'t, T: Sync, R: Send>(
        &mut self,
        things: &'t [T],
        look: impl Fn(&mut Checker<'_>, &'t T) -> R + Sync,
    ) -> Vec<R> {
        if things.len() < MANY {
            return things.iter().map(|thing| look(self, thing)).collect();
        }
        let Self { root, cwd, recovered, .. } = *self;
        let piece = |piece: &'t [T]| {
            let mut checker = Checker { root, cwd, recovered, problems: Vec::new() };
            let found: Vec<R> = piece.iter().map(|thing| look(&mut checker, thing)).collect();
            (found, checker.problems)
        };
        let pieces: Vec<_> = things.par_chunks(MANY).map(piece).collect();
        let mut all = Vec::with_capacity(things.len());
        for (found, problems) in pieces {
            all.extend(found);
            self.problems.extend(problems);
        }
        all
    }

    pub(super) fn complain(&mut self, problem: Diagnostic) {
        self.problems.push(problem);
    }

    /// All parameters of a table, defaults filled in; `None` if anything was wrong, which was then reported.
    pub(super) fn params(&mut self, owner: &Owner<'_>, params: &[Param], table: &Table) -> Option<Value> {
        let mut values = Map::with_capacity(params.len());
        let mut sound = true;
        for entry in &table.0 {
            let known = params.iter().any(|p| p.name == entry.key) || owner.reserved.contains(&entry.key.as_str());
            if !known {
                self.unknown(owner, params, table, entry);
                sound = false;
            }
        }
        for param in params {
            let value = match (table.get(param.name), &param.default) {
                (Some(entry), _) => self.value(param.name, param.unit, &param.shape, &entry.item),
                (None, Some(default)) => Some(self.complete(&param.shape, default)),
                (None, None) => {
                    self.missing(owner, param, params, table);
                    None
                }
            };
            sound &= value.is_some();
            values.insert(param.name.to_owned(), value.unwrap_or(Value::Null));
        }
        sound.then_some(Value::Object(values))
    }

    fn unknown(&mut self, owner: &Owner<'_>, params: &[Param], table: &Table, entry: &Entry) {
        // A key that the text already has was hardly meant again; an override may well mean it.
        let mut names: Vec<&str> = params.iter().map(|p| p.name).chain(owner.reserved.iter().copied()).collect();
        names.retain(|name| entry.key_place.source.is_set() || table.get(name).is_none());
        let what = if entry.key_place.source.is_set() { "its keys are" } else { "keys not yet used" };
        let problem = Diagnostic::error(&entry.key_place, format!("unknown key `{}`", entry.key))
            .label(format!("not a key of {}", owner.name))
            .hint(suggest(&entry.key, what, &names));
        self.complain(problem);
    }

    fn missing(&mut self, owner: &Owner<'_>, param: &Param, params: &[Param], table: &Table) {
        // A misspelt key was reported as unknown, with the right spelling.
        let misspelt = |entry: &Entry| {
            let unknown = params.iter().all(|p| p.name != entry.key) && !owner.reserved.contains(&entry.key.as_str());
            unknown && nearest(&entry.key, [param.name]).is_some()
        };
        if self.recovered || table.0.iter().any(misspelt) {
            return;
        }
        let problem = Diagnostic::error(owner.place, format!("{} needs `{}`", owner.name, param.name))
            .label(format!("`{}` is missing", param.name))
            .hint(format!("`{}` is {}: {}", param.name, shape_words(&param.shape), param.doc));
        self.complain(problem);
    }

    /// A default as a written value would have become: nested defaults filled in, numbers typed, paths absolute.
    fn complete(&mut self, shape: &Shape, default: &Value) -> Value {
        match (shape, default) {
            (Shape::Path, Value::String(path)) => self.root.join(path).to_string_lossy().into_owned().into(),
            (Shape::Float { .. }, Value::Number(number)) => {
                number.as_f64().and_then(Number::from_f64).map_or(Value::Null, Value::Number)
            }
            (Shape::List(item), Value::Array(items)) => items.iter().map(|value| self.complete(item, value)).collect(),
            (Shape::Map(item), Value::Object(given)) => {
                let complete = |(key, value): (&String, &Value)| (key.clone(), self.complete(item, value));
                Value::Object(given.iter().map(complete).collect())
            }
            (Shape::Table(params), Value::Object(given)) => {
                let value = |param: &Param| given.get(param.name).or(param.default.as_ref()).cloned();
                let fill = |param: &Param| {
                    let value = self.complete(&param.shape, &value(param).unwrap_or_default());
                    (param.name.to_owned(), value)
                };
                Value::Object(params.iter().map(fill).collect())
            }
            (_, other) => other.clone(),
        }
    }

    /// One value; `None` if something was wrong, which was then reported.
    pub(super) fn value(&mut self, name: &str, unit: &str, shape: &Shape, item: &Item) -> Option<Value> {
        match (shape, &item.tree) {
            (_, Tree::Broken) => None,
            (Shape::Bool, Tree::Bool(value)) => Some(Value::Bool(*value)),
            (Shape::Int { min, max }, Tree::Int(value)) if (min..=max).contains(&value) => Some((*value).into()),
            (Shape::Float { min, max }, Tree::Float(_) | Tree::Int(_)) => {
                let value = match item.tree {
                    Tree::Float(value) => value,
                    Tree::Int(value) => value as f64,
                    _ => return None,
                };
                let inside = (*min..=*max).contains(&value);
                if !inside {
                    self.out_of_range(name, unit, shape, item);
                }
                Number::from_f64(value).filter(|_| inside).map(Value::Number)
            }
            (Shape::Int { .. }, Tree::Int(_)) => {
                self.out_of_range(name, unit, shape, item);
                None
            }
            (Shape::List(inner), Tree::List(items)) => {
                let values: Vec<_> = items.iter().map(|item| self.value(name, unit, inner, item)).collect();
                values.into_iter().collect::<Option<Vec<_>>>().map(Value::Array)
            }
            (Shape::Map(inner), Tree::Table(table)) => {
                let value =
                    |entry: &Entry| Some((entry.key.clone(), self.value(&entry.key, unit, inner, &entry.item)?));
                let values: Vec<_> = table.0.iter().map(value).collect();
                // Sorted: whoever reads the resolved parameters must not depend on how the table was written.
                let sorted: Option<BTreeMap<String, Value>> = values.into_iter().collect();
                sorted.map(|sorted| Value::Object(sorted.into_iter().collect()))
            }
            (Shape::Table(params), Tree::Table(table)) => {
                let owner = Owner { name: &format!("table `{name}`"), place: &item.place, reserved: &[] };
                self.params(&owner, params, table)
            }
            (Shape::Text | Shape::Choice(_) | Shape::Path, tree) => match (tree, item.place.source.is_set()) {
                (Tree::Text(text), _) => self.text(name, shape, text, item),
                // On a command line `123` may well be meant as text.
                (Tree::Int(_) | Tree::Float(_) | Tree::Bool(_) | Tree::Date, true) => {
                    self.text(name, shape, item.place.text(), item)
                }
                _ => self.wrong_type(name, shape, item),
            },
            _ => self.wrong_type(name, shape, item),
        }
    }

    fn text(&mut self, name: &str, shape: &Shape, text: &str, item: &Item) -> Option<Value> {
        let problem = match shape {
            Shape::Choice(words) if words.iter().all(|(word, _)| *word != text) => {
                let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                Diagnostic::error(&item.place, format!("`{name}` cannot be `{text}`"))
                    .label(format!("expected {}", shape_words(shape)))
                    .hint(nearest(text, names).map(|word| format!("did you mean `{word}`?")))
            }
            Shape::Path if text.is_empty() => {
                Diagnostic::error(&item.place, format!("`{name}` is empty")).label("expected a path")
            }
            Shape::Path => {
                let base = if item.place.source.is_set() { self.cwd } else { self.root };
                if let Some(path) = base.join(text).to_str() {
                    return Some(path.into());
                }
                let base = base.display();
                Diagnostic::error(&item.place, format!("the folder {base}, in which `{name}` lies, is not UTF-8"))
            }
            _ => return Some(text.into()),
        };
        self.complain(problem);
        None
    }

    fn out_of_range(&mut self, name: &str, unit: &str, shape: &Shape, item: &Item) {
        let of = if unit.is_empty() { String::new() } else { format!(" ({unit})") };
        let problem = Diagnostic::error(&item.place, format!("`{name}` is out of range"))
            .label(format!("expected {}{of}", shape_words(shape)));
        self.complain(problem);
    }

    fn wrong_type(&mut self, name: &str, shape: &Shape, item: &Item) -> Option<Value> {
        let written = item.place.text();
        let hint = match (shape, &item.tree) {
            (Shape::List(_), Tree::Int(_) | Tree::Float(_) | Tree::Bool(_) | Tree::Text(_)) if written.len() < 60 => {
                Some(format!("a list of one is written `[{written}]`"))
            }
            (Shape::Int { .. } | Shape::Float { .. } | Shape::Bool, Tree::Text(text))
                if text.parse::<f64>().is_ok() || matches!(text.as_str(), "true" | "false") =>
            {
                Some("leave out the quotes".to_owned())
            }
            (Shape::Text | Shape::Choice(_) | Shape::Path, Tree::Int(_) | Tree::Float(_) | Tree::Bool(_)) => {
                Some("put it in quotes".to_owned())
            }
            (Shape::Int { .. }, Tree::Float(value)) if value.fract() == 0.0 && value.abs() < 1e15 => {
                Some(format!("write `{value:.0}`"))
            }
            _ => None,
        };
        let problem = Diagnostic::error(&item.place, format!("`{name}` cannot be {}", item.describe()))
            .label(format!("expected {}", shape_words(shape)))
            .hint(hint);
        self.complain(problem);
        None
    }
}
