//! Placeholders in templates and arguments: `{{run}}` is filled in, an unknown name is an error.
//!
//! `{{content:PATH}}` stands for the text of a file in the run directory, for configurations that hold a key or a hash
//! and not the path of one.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Why a template cannot be filled in.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// There is no such placeholder.
    #[error("`{{{{{name}}}}}` is not a placeholder; there are {known}")]
    Unknown {
        /// What stands between the braces.
        name: String,
        /// The names that would be right.
        known: String,
    },
    /// Braces that never close.
    #[error("`{{{{` without `}}}}` after it: {rest}")]
    Open {
        /// The text after the braces, shortened.
        rest: String,
    },
    /// The file of a `{{content:…}}` cannot be read.
    #[error("`{{{{content:{path}}}}}`: {source}")]
    Content {
        /// The path as written.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The names and what they stand for.
#[derive(Debug, Clone, Default)]
pub struct Values {
    run: PathBuf,
    names: BTreeMap<String, String>,
}

impl Values {
    /// With `{{run}}`, `{{pki}}` and `{{secrets}}` for the run directory `run`.
    #[must_use]
    pub fn new(run: PathBuf) -> Self {
        let show = |path: PathBuf| path.display().to_string();
        let names = BTreeMap::from([
            ("run".to_owned(), show(run.clone())),
            ("pki".to_owned(), show(run.join("pki"))),
            ("secrets".to_owned(), show(run.join("secrets"))),
        ]);
        Self { run, names }
    }

    /// The same with one more name.
    #[must_use]
    pub fn with(&self, name: &str, value: impl Into<String>) -> Self {
        let mut more = self.clone();
        more.names.insert(name.to_owned(), value.into());
        more
    }

    /// Fills in every placeholder of `text`.
    ///
    /// # Errors
    /// [`TemplateError`], naming the placeholder.
    pub fn fill(&self, text: &str) -> Result<String, TemplateError> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((name, tail)) = after.split_once("}}") else {
                return Err(TemplateError::Open { rest: after.chars().take(40).collect() });
            };
            out.push_str(before);
            out.push_str(&self.value(name.trim())?);
            rest = tail;
        }
        out.push_str(rest);
        Ok(out)
    }

    fn value(&self, name: &str) -> Result<String, TemplateError> {
        if let Some(path) = name.strip_prefix("content:") {
            let text = std::fs::read_to_string(self.run.join(path.trim()))
                .map_err(|source| TemplateError::Content { path: path.to_owned(), source })?;
            return Ok(text.trim().to_owned());
        }
        self.names.get(name).cloned().ok_or_else(|| TemplateError::Unknown {
            name: name.to_owned(),
            known: self.names.keys().map(String::as_str).chain(["content:PATH"]).collect::<Vec<_>>().join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in_and_other_braces_stay() {
        let run = tempfile::tempdir().unwrap();
        std::fs::write(run.path().join("key"), "abc\n").unwrap();
        let values = Values::new(run.path().to_owned()).with("dir", "/d");
        let filled = values.fill("a {b} {{dir}}/x \"{{ content:key }}\" {{pki}}").unwrap();
        assert_eq!(filled, format!("a {{b}} /d/x \"abc\" {}/pki", run.path().display()));
    }

    #[test]
    fn a_wrong_placeholder_is_named_with_those_that_would_be_right() {
        let values = Values::new("/run/x".into());
        assert_eq!(
            values.fill("{{rnu}}").unwrap_err().to_string(),
            "`{{rnu}}` is not a placeholder; there are pki, run, secrets, content:PATH"
        );
        assert!(values.fill("{{run").unwrap_err().to_string().contains("without `}}`"));
        assert!(values.fill("{{content:nothing}}").unwrap_err().to_string().contains("content:nothing"));
    }
}
