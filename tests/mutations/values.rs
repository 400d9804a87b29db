//! Values of parameters, made from their shapes: one to begin with, and others that are valid too.
//!
//! Unaware of kinds.
use anneal_engine::{Param, Shape};
use serde_json::{Map, Value, json};

/// A parameter that has no parameters of its own.
pub(crate) struct Leaf {
    /// Keys down to it.
    pub(crate) path: Vec<String>,
    shape: Shape,
    /// It may be left out, and is no value then.
    pub(crate) optional: bool,
    /// It is an entry of a map.
    pub(crate) entry: bool,
}

/// All parameters down to those without parameters of their own.
pub(crate) fn leaves(params: &[Param]) -> Vec<Leaf> {
    let mut found = Vec::new();
    for param in params {
        match &param.shape {
            Shape::Table(inner) => found.extend(leaves(inner).into_iter().map(|mut leaf| {
                leaf.path.insert(0, param.name.to_owned());
                leaf
            })),
            // What is told of a map is the entry.
            Shape::Map(item) => found.push(Leaf {
                path: vec![param.name.to_owned(), "k".to_owned()],
                shape: Shape::clone(item),
                optional: false,
                entry: true,
            }),
            shape => found.push(Leaf {
                path: vec![param.name.to_owned()],
                shape: shape.clone(),
                optional: param.default == Some(Value::Null),
                entry: false,
            }),
        }
    }
    found
}

/// A value for every parameter, the optional ones too.
pub(crate) fn all(params: &[Param]) -> Value {
    Value::Object(params.iter().map(|param| (param.name.to_owned(), value(&param.shape, 0))).collect())
}

impl Leaf {
    /// Other values than the first one, and whether the key holds them: of a file it holds the content alone.
    pub(crate) fn others(&self) -> Vec<(Value, bool)> {
        match &self.shape {
            Shape::List(item) => {
                let more = json!([value(item, 0), value(item, 0)]);
                vec![(json!([value(item, 1)]), !is_path(item)), (more, true), (json!([]), true)]
            }
            shape => vec![(value(shape, 1), !is_path(shape))],
        }
    }

    /// A list, and the same with two elements swapped.
    pub(crate) fn swapped(&self) -> Option<(Value, Value)> {
        let Shape::List(item) = &self.shape else { return None };
        let (a, b) = (value(item, 0), value(item, 1));
        (!is_path(item)).then(|| (json!([a, b]), json!([b, a])))
    }
}

fn is_path(shape: &Shape) -> bool {
    *shape == Shape::Path
}

/// The first or the second value of a shape.
pub(crate) fn value(shape: &Shape, which: usize) -> Value {
    match shape {
        Shape::Bool => json!(which == 1),
        Shape::Int { min, max } => {
            assert!(min < max, "an integer that can only be {min}");
            json!(min + which as i64)
        }
        Shape::Float { min, max } => {
            let (low, high) = (min.max(-1e6), max.min(1e6));
            json!(low + (high - low) * [0.25, 0.75][which])
        }
        Shape::Text => json!(["one", "two"][which]),
        Shape::Choice(words) => json!(words[which].0),
        Shape::Path => json!(["/one", "/two"][which]),
        Shape::List(item) => json!([value(item, which)]),
        Shape::Map(item) => json!({ "k": value(item, which) }),
        Shape::Table(params) => Value::Object(
            params.iter().map(|param| (param.name.to_owned(), value(&param.shape, which))).collect::<Map<_, _>>(),
        ),
    }
}
