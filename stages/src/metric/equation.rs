//! Values of the equations in responses in steps: `(784-692)/692*100`. Letters and the signs `& % , $` are passed over,
//! as TAT-LLM's evaluation does. Unaware of questions.

use crate::data::number::{Number, float_text, round_to};

/// Parentheses and signs inside one another beyond which nobody meant an equation.
const DEEPEST: usize = 64;

/// The value, rounded to four decimals and printed as Python prints it: whole numbers stay whole unless they are
/// divided. `None` if it cannot be computed.
pub(super) fn value(equation: &str) -> Option<String> {
    let passed_over = |c: &char| c.is_ascii_lowercase() || matches!(c, '&' | '%' | ',' | '$');
    let clean: String = equation.chars().filter(|c| !passed_over(c)).collect();
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit() || c == '.');
    let words: Vec<&str> = clean.split_whitespace().collect();
    // Two numbers in a row are no equation.
    if words.windows(2).any(|pair| digit(pair[0].chars().next_back()) && digit(pair[1].chars().next())) {
        return None;
    }
    let chars: Vec<char> = words.concat().chars().collect();
    let mut reader = Reader { chars: &chars, at: 0, depth: 0 };
    let found = reader.sum()?;
    if reader.at < chars.len() || !found.value.is_finite() {
        return None;
    }
    if found.whole { Some(format!("{:.0}", found.value)) } else { Some(float_text(round_to(found.value, 4))) }
}

#[derive(Clone, Copy)]
struct Value {
    value: f64,
    /// Python's `int`.
    whole: bool,
}

/// Reads by recursive descent; each method reads what binds at least as tightly as its name.
struct Reader<'a> {
    chars: &'a [char],
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn takes(&mut self, sign: &str) -> bool {
        let found = sign.chars().enumerate().all(|(i, c)| self.chars.get(self.at + i) == Some(&c));
        self.at += if found { sign.len() } else { 0 };
        found
    }

    fn sum(&mut self) -> Option<Value> {
        let mut left = self.product()?;
        loop {
            let sign = if self.takes("+") {
                1.0
            } else if self.takes("-") {
                -1.0
            } else {
                return Some(left);
            };
            let right = self.product()?;
            left = Value { value: left.value + sign * right.value, whole: left.whole && right.whole };
        }
    }

    fn product(&mut self) -> Option<Value> {
        let mut left = self.signed()?;
        loop {
            // `**` was taken by the power inside.
            if self.takes("*") {
                let right = self.signed()?;
                left = Value { value: left.value * right.value, whole: left.whole && right.whole };
            } else if self.takes("/") {
                let down = self.takes("/");
                let right = self.signed()?;
                if right.value == 0.0 {
                    return None;
                }
                let value = left.value / right.value;
                let whole = down && left.whole && right.whole;
                left = Value { value: if down { value.floor() } else { value }, whole };
            } else {
                return Some(left);
            }
        }
    }

    fn signed(&mut self) -> Option<Value> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return None;
        }
        let found = if self.takes("-") {
            self.signed().map(|found| Value { value: -found.value, ..found })
        } else if self.takes("+") {
            self.signed()
        } else {
            self.power()
        };
        self.depth -= 1;
        found
    }

    fn power(&mut self) -> Option<Value> {
        let base = self.atom()?;
        if !self.takes("**") {
            return Some(base);
        }
        let exponent = self.signed()?;
        let whole = base.whole && exponent.whole && exponent.value >= 0.0;
        Some(Value { value: base.value.powf(exponent.value), whole })
    }

    fn atom(&mut self) -> Option<Value> {
        if self.takes("(") {
            let inner = self.sum()?;
            return self.takes(")").then_some(inner);
        }
        let start = self.at;
        while self.chars.get(self.at).is_some_and(|c| c.is_ascii_digit() || *c == '.') {
            self.at += 1;
        }
        let text: String = self.chars[start..self.at].iter().collect();
        let whole = matches!(Number::parse(&text)?, Number::Int(_));
        Some(Value { value: text.parse().ok()?, whole })
    }
}

#[cfg(test)]
mod tests {
    use super::value;

    #[test]
    fn equations_have_pythons_values() {
        for (equation, expected) in [
            ("(784-692)/692*100", Some("13.2948")),
            ("1+2*3", Some("7")),
            ("10/5", Some("2.0")),
            ("7//2", Some("3")),
            ("2**3**2", Some("512")),
            ("-2**2", Some("-4")),
            ("-(1,234 - $34)", Some("-1200")),
            ("x = 1.5 * 2", None),
            ("1.5 * 2 million", Some("3.0")),
            ("5%", Some("5")),
            (".5+1", Some("1.5")),
            ("1/0", None),
            ("1 +", None),
            ("12 34", None),
            ("(1", None),
            ("1..2", None),
            ("", None),
            ("(-8)**0.5", None),
        ] {
            assert_eq!(value(equation).as_deref(), expected, "{equation}");
        }
        assert_eq!(value(&"(".repeat(100_000)), None);
        assert_eq!(value(&"-".repeat(100_000)), None);
    }
}
