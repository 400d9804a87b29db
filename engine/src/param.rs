//! Parameters of a stage: one declaration yields the typed struct, its defaults, ranges and documentation.
//!
//! `params!` writes a struct that serde fills, and a table ([`ParamSet::params`]) from which manifests are checked,
//! help is printed and defaults enter the key. Unaware of TOML and of where a value came from.
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a value must look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// `true` or `false`.
    Bool,
    /// An integer within inclusive bounds.
    Int {
        /// Smallest allowed value.
        min: i64,
        /// Largest allowed value.
        max: i64,
    },
    /// A finite number within inclusive bounds; an integer is accepted.
    Float {
        /// Smallest allowed value.
        min: f64,
        /// Largest allowed value.
        max: f64,
    },
    /// Any text.
    Text,
    /// One of some words, each with its meaning.
    Choice(Vec<(&'static str, &'static str)>),
    /// A file or folder. Its content enters the key, the path does not.
    Path,
    /// A list of values of one shape.
    List(Box<Shape>),
    /// A table with any keys, whose values have one shape. The order of its keys means nothing.
    Map(Box<Shape>),
    /// A table with parameters of its own.
    Table(Vec<Param>),
}

/// One parameter of a stage kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// Key in the manifest.
    pub name: &'static str,
    /// What a value must look like.
    pub shape: Shape,
    /// Value when the manifest has none; `None`: required; `Some(Null)`: optional and absent.
    pub default: Option<Value>,
    /// Unit of the value, empty if it has none.
    pub unit: &'static str,
    /// What it means.
    pub doc: String,
    /// Its effect on memory, empty if there is none.
    pub memory: &'static str,
}

/// A struct declared by `params!`.
pub trait ParamSet: Serialize + serde::de::DeserializeOwned {
    /// Its parameters in order of declaration.
    fn params() -> Vec<Param>;

    /// All parameters at their defaults, as of an empty table.
    ///
    /// # Errors
    /// A parameter is required.
    fn defaults() -> Result<Self, serde_json::Error> {
        let values = Self::params().into_iter().filter_map(|param| Some((param.name.to_owned(), param.default?)));
        serde_json::from_value(Value::Object(values.collect()))
    }
}

/// A Rust type that can be a parameter's value.
pub trait ParamType {
    /// The shape of its values, before a narrower range is applied.
    fn shape() -> Shape;
    /// May be absent.
    const OPTIONAL: bool = false;
}

macro_rules! int_param {
    ($($ty:ty: $max:expr),*) => {$(
        impl ParamType for $ty {
            fn shape() -> Shape {
                Shape::Int { min: 0, max: $max }
            }
        }
    )*};
}
int_param!(u32: u32::MAX as i64, u64: i64::MAX, usize: i64::MAX);

impl ParamType for f64 {
    fn shape() -> Shape {
        Shape::Float { min: f64::MIN, max: f64::MAX }
    }
}

impl ParamType for bool {
    fn shape() -> Shape {
        Shape::Bool
    }
}

impl ParamType for String {
    fn shape() -> Shape {
        Shape::Text
    }
}

impl ParamType for PathBuf {
    fn shape() -> Shape {
        Shape::Path
    }
}

impl<T: ParamType> ParamType for Vec<T> {
    fn shape() -> Shape {
        Shape::List(Box::new(T::shape()))
    }
}

impl<T: ParamType> ParamType for BTreeMap<String, T> {
    fn shape() -> Shape {
        Shape::Map(Box::new(T::shape()))
    }
}

impl<T: ParamType> ParamType for Option<T> {
    fn shape() -> Shape {
        T::shape()
    }
    const OPTIONAL: bool = true;
}

impl Shape {
    /// Narrows the bounds of numbers, also of those inside a list or a map.
    #[must_use]
    pub fn within(self, low: f64, high: f64) -> Self {
        match self {
            // Bounds are written as literals far below 2^53, so the conversion is exact.
            Self::Int { .. } => Self::Int { min: low as i64, max: high as i64 },
            Self::Float { .. } => Self::Float { min: low, max: high },
            Self::List(item) => Self::List(Box::new(item.within(low, high))),
            Self::Map(item) => Self::Map(Box::new(item.within(low, high))),
            other => other,
        }
    }
}

/// Declares the parameters of a stage, or of a table inside them.
///
/// ```
/// anneal_engine::params! {
///     /// Parameters of a stage.
///     pub struct Example {
///         /// Rank of the update.
///         rank: u32 = 16, in 1..=1024, unit "rows", memory "grows with rank";
///         /// Where the model lies; no default, so it is required.
///         model: std::path::PathBuf;
///         /// Stop early; optional without a default value.
///         max_steps: Option<u64>, in 1..=1_000_000, unit "steps";
///         /// Modules to adapt.
///         target_modules: Vec<String> = ["q_proj", "v_proj"];
///         /// Variables; any names.
///         env: std::collections::BTreeMap<String, String> = {};
///     }
/// }
/// use anneal_engine::ParamSet;
/// assert_eq!(Example::params()[0].doc, "Rank of the update.");
/// assert!(Example::params()[1].default.is_none());
/// ```
#[macro_export]
macro_rules! params {
    ($(#[$meta:meta])* pub struct $name:ident { $(
        $(#[doc = $doc:literal])+
        $field:ident : $ty:ty $(= $default:tt)? $(, in $low:literal ..= $high:literal)? $(, unit $unit:literal)? $(, memory $memory:literal)? ;
    )* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $(
            $(#[doc = $doc])+
            pub $field: $ty,
        )* }

        impl $crate::param::ParamSet for $name {
            fn params() -> Vec<$crate::param::Param> {
                vec![$({
                    let absent = <$ty as $crate::param::ParamType>::OPTIONAL.then_some(::serde_json::Value::Null);
                    let default = None$( .or(Some(::serde_json::json!($default))) )?.or(absent);
                    let shape = <$ty as $crate::param::ParamType>::shape();
                    $( let shape = shape.within($low as f64, $high as f64); )?
                    $crate::param::Param {
                        name: stringify!($field),
                        shape,
                        default,
                        unit: concat!("" $(, $unit)?),
                        doc: [$($doc),+].iter().map(|line: &&str| line.trim()).collect::<Vec<_>>().join(" "),
                        memory: concat!("" $(, $memory)?),
                    }
                }),*]
            }
        }

        impl $crate::param::ParamType for $name {
            fn shape() -> $crate::param::Shape {
                $crate::param::Shape::Table(<Self as $crate::param::ParamSet>::params())
            }
        }
    };
}

/// Declares an enum whose variants are the words a parameter may be, with their meanings.
///
/// ```
/// anneal_engine::choices! {
///     /// How the learning rate moves.
///     pub enum Schedule {
///         /// Falls in a straight line to zero.
///         Linear = "linear",
///         /// Stays.
///         Constant = "constant",
///     }
/// }
/// assert_eq!(serde_json::to_value(Schedule::Linear).unwrap(), "linear");
/// ```
#[macro_export]
macro_rules! choices {
    ($(#[$meta:meta])* pub enum $name:ident { $( $(#[doc = $doc:literal])+ $variant:ident = $word:literal ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, ::serde::Serialize, ::serde::Deserialize)]
        pub enum $name { $(
            $(#[doc = $doc])+
            #[serde(rename = $word)]
            $variant,
        )* }

        impl $crate::param::ParamType for $name {
            fn shape() -> $crate::param::Shape {
                $crate::param::Shape::Choice(vec![$(($word, concat!($($doc),+).trim_ascii())),*])
            }
        }
    };
}
