//! Texts that end an answer. Unaware of tokens' ids, which a function turns into text.

/// Where the first of the texts begins in `answer`.
pub(super) fn found(answer: &str, texts: &[String]) -> Option<usize> {
    texts.iter().filter_map(|text| answer.find(text.as_str())).min()
}

/// The answer up to the first of the texts.
pub(super) fn cut(mut answer: String, texts: &[String]) -> String {
    if let Some(end) = found(&answer, texts) {
        answer.truncate(end);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_text_counts_wherever_it_stands_in_the_list() {
        let texts = ["###".to_owned(), "\n".to_owned()];
        let cut = |answer: &str| cut(answer.to_owned(), &texts);
        assert_eq!(cut("12 % #### and\nmore"), "12 % ");
        assert_eq!(cut("é\n###"), "é");
        assert_eq!(cut("##"), "##");
        assert_eq!(found("a", &[]), None);
    }
}
