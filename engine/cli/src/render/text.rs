//! Text in a given width: wrapped, cut short, side by side. Widths are counted in characters.
//!
//! Unaware of what the text says.

/// Lines of at most `width` characters. Line breaks of the text stay; a word that is longer is cut.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        let mut filled = 0;
        for word in paragraph.split_whitespace() {
            let mut word: Vec<char> = word.chars().collect();
            if filled > 0 && filled + 1 + word.len() <= width {
                line.push(' ');
                filled += 1;
            } else if filled > 0 {
                lines.push(std::mem::take(&mut line));
                filled = 0;
            }
            while filled == 0 && word.len() > width {
                lines.push(word.drain(..width).collect());
            }
            filled += word.len();
            line.extend(word);
        }
        lines.push(line);
    }
    lines
}

/// The text in one line of at most `width` characters, the last of them `…` if it was cut.
pub(crate) fn cut(text: &str, width: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= width {
        return line;
    }
    let kept: String = line.chars().take(width.saturating_sub(1)).collect();
    kept + "…"
}

/// The text with spaces up to `width` characters.
pub(crate) fn pad(text: &str, width: usize) -> String {
    format!("{text}{:1$}", "", width.saturating_sub(text.chars().count()))
}

/// Without what would move a terminal's cursor; line breaks stay.
pub(crate) fn clean(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\t', "    ");
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// Columns of the standard output's terminal: what COLUMNS says, else the terminal itself, else 100.
pub(crate) fn terminal_width() -> usize {
    let asked = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let size = || rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
    asked.or_else(size).filter(|columns| *columns > 0).unwrap_or(100).clamp(NARROWEST, WIDEST)
}

/// Below this nothing can be laid out.
const NARROWEST: usize = 40;
/// Nobody follows longer lines.
const WIDEST: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kept_whole_while_they_fit() {
        assert_eq!(wrap("one two  three", 8), ["one two", "three"]);
        assert_eq!(wrap("a\n\nb", 8), ["a", "", "b"]);
        assert_eq!(wrap("abcdefghij k", 4), ["abcd", "efgh", "ij k"]);
        assert_eq!(wrap("x abcdefghij", 4), ["x", "abcd", "efgh", "ij"]);
        assert_eq!(wrap("", 4), [""]);
        assert_eq!(wrap("ab", 0), ["a", "b"]);
        let text = "a bb ccc dddd eeeee ffffff";
        for width in 1..30 {
            let lines = wrap(text, width);
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{lines:?}");
            let together = |text: &str| text.chars().filter(|c| *c != ' ').collect::<String>();
            assert_eq!(together(&lines.concat()), together(text));
        }
    }

    #[test]
    fn a_line_is_cut_with_a_sign() {
        assert_eq!((cut("a  b\nc", 5), cut("abcdef", 5), cut("é", 1)), ("a b c".into(), "abcd…".into(), "é".into()));
        assert_eq!((pad("é", 3), pad("long", 2)), ("é  ".into(), "long".into()));
        assert_eq!(clean("a\x1b[2J\tb\r\nc"), "a\u{fffd}[2J    b\nc");
    }
}
