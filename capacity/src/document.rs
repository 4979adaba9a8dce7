//! Tables in a document, between marks: `<!-- simulate: NAME -->` and `<!-- simulate: end -->`, each on a line of its
//! own.

/// A table and its name.
pub type Section = (&'static str, String);

const END: &str = "<!-- simulate: end -->";

/// The document with these tables between their marks; everything else stays.
///
/// # Errors
/// The name of a table that has no marks in the document.
pub fn with_tables(document: &str, sections: &[Section]) -> Result<String, String> {
    let mut document = document.to_owned();
    for (name, table) in sections {
        let begin = format!("<!-- simulate: {name} -->\n");
        let missing = || format!("the document has no `{}` with a `{END}` after it", begin.trim());
        let (before, rest) = document.split_once(&begin).ok_or_else(missing)?;
        let (_, after) = rest.split_once(END).ok_or_else(missing)?;
        document = format!("{before}{begin}\n{table}\n{END}{after}");
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_replaced_and_text_stays() {
        let document = "a\n<!-- simulate: one -->\nold\n<!-- simulate: end -->\nb\n";
        let wanted = "a\n<!-- simulate: one -->\n\nnew\n\n<!-- simulate: end -->\nb\n";
        let sections = [("one", "new\n".to_owned())];
        assert_eq!(with_tables(document, &sections).unwrap(), wanted);
        assert_eq!(with_tables(wanted, &sections).unwrap(), wanted);
        assert!(with_tables(document, &[("two", String::new())]).unwrap_err().contains("simulate: two"));
    }
}
