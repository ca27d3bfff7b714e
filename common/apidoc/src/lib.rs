//! Holds OpenAPI documents against the code beside them: the same paths and refusals, and examples that the types
//! read. For tests, which fail by panicking.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The document, with what `$ref` and the aliases stand for looked up where it is needed.
pub struct Document(pub Value);

/// An example: where it is, the name of its schema, and the body.
pub struct Example<'d> {
    /// Operation and name.
    pub place: String,
    /// In `components/schemas`.
    pub schema: &'d str,
    /// The value.
    pub body: &'d Value,
}

impl Document {
    /// Reads YAML.
    #[must_use]
    pub fn read(text: &str) -> Self {
        Self(serde_saphyr::from_str(text).expect("the document is YAML"))
    }

    fn follow<'d>(&'d self, value: &'d Value) -> &'d Value {
        match value.get("$ref").and_then(Value::as_str) {
            Some(target) => self.0.pointer(target.trim_start_matches('#')).unwrap_or_else(|| panic!("no {target}")),
            None => value,
        }
    }

    /// Method, path and operation, of `part`: `paths` or `webhooks`.
    #[must_use]
    pub fn operations<'d>(&'d self, part: &str) -> Vec<(&'d str, &'d str, &'d Value)> {
        let paths = self.0[part].as_object().into_iter().flatten();
        paths
            .flat_map(|(path, item)| item.as_object().unwrap().iter().map(move |(key, value)| (key, path, value)))
            .filter(|(key, ..)| ["get", "post", "put", "patch", "delete"].contains(&key.as_str()))
            .map(|(method, path, operation)| (method.as_str(), path.as_str(), operation))
            .collect()
    }

    fn examples<'d>(&'d self, place: &str, body: &'d Value) -> Vec<Example<'d>> {
        let Some(json) = self.follow(body).pointer("/content/application~1json") else { return Vec::new() };
        let schema = json["schema"]["$ref"].as_str().and_then(|name| name.strip_prefix("#/components/schemas/"));
        let schema = schema.unwrap_or_else(|| panic!("{place}: the schema has no name"));
        let examples = json["examples"].as_object().unwrap_or_else(|| panic!("{place} has no examples"));
        assert!(!examples.is_empty(), "{place} has no examples");
        let named = |(name, example): (&String, &'d Value)| Example {
            place: format!("{place}, {name}"),
            schema,
            body: &example["value"],
        };
        examples.iter().map(named).collect()
    }

    /// The examples of every request and response.
    #[must_use]
    pub fn all_examples(&self) -> Vec<Example<'_>> {
        let operations = [self.operations("paths"), self.operations("webhooks")].concat();
        let bodies = operations.into_iter().flat_map(|(method, path, operation)| {
            let request = operation.get("requestBody").map(|body| (format!("{method} {path}"), body));
            let responses = operation["responses"].as_object().unwrap().iter();
            request.into_iter().chain(responses.map(move |(status, body)| (format!("{method} {path} {status}"), body)))
        });
        bodies.flat_map(|(place, body)| self.examples(&place, body)).collect()
    }

    /// Fails unless every example is what its schema says, and `typed`, given the name of its schema, reads it and
    /// writes the same again.
    pub fn hold_examples(&self, typed: impl Fn(&str, &Value) -> Result<Value, String>) {
        for Example { place, schema, body } in self.all_examples() {
            let described = self.fits(&self.0["components"]["schemas"][schema], body);
            described.unwrap_or_else(|error| panic!("{place}: {error}"));
            let again = typed(schema, body).unwrap_or_else(|error| panic!("{place}: {error}"));
            assert_eq!(again, *body, "{place}");
        }
    }

    /// Whether `value` is what `schema` says, as far as these documents use JSON Schema.
    fn fits(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let schema = self.follow(schema);
        if let Some(one_of) = schema["oneOf"].as_array() {
            let fitting = one_of.iter().filter(|schema| self.fits(schema, value).is_ok()).count();
            return if fitting == 1 { Ok(()) } else { Err(format!("{value} fits {fitting} of its schemas")) };
        }
        let allowed = schema["enum"].as_array().is_none_or(|values| values.contains(value))
            && schema.get("const").is_none_or(|only| only == value);
        let typed = match schema["type"].as_str() {
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("integer") => value.is_u64(),
            Some(other) => return Err(format!("type {other} is not known here")),
            None => true,
        };
        if !allowed || !typed {
            return Err(format!("{value} is not {schema}"));
        }
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for name in required {
            value.get(name).ok_or_else(|| format!("{name} is missing in {value}"))?;
        }
        for (name, field) in value.as_object().into_iter().flatten() {
            let property = schema["properties"].get(name).ok_or_else(|| format!("no schema for {name}"))?;
            self.fits(property, field)?;
        }
        value.as_array().into_iter().flatten().try_for_each(|item| self.fits(&schema["items"], item))
    }

    /// Status and code of every refusal of the operations that `wanted` picks.
    #[must_use]
    pub fn refusals(&self, wanted: impl Fn(&Value) -> bool) -> BTreeSet<(u16, String)> {
        let operations = self.operations("paths").into_iter().filter(|(.., operation)| wanted(operation));
        let responses = operations.flat_map(|(.., operation)| operation["responses"].as_object().unwrap());
        responses
            .flat_map(|(status, body)| self.examples(status, body).into_iter().map(move |example| (status, example)))
            .filter(|(_, example)| example.schema == "Error")
            .map(|(status, example)| {
                (status.parse().unwrap(), example.body["error"]["code"].as_str().unwrap().to_owned())
            })
            .collect()
    }
}

/// A source file up to its tests.
fn code(source: &str) -> &str {
    source.split("#[cfg(test)]").next().unwrap()
}

/// Method and path of every `.route("PATH", METHOD(…))`.
#[must_use]
pub fn routes(source: &str) -> BTreeSet<(&str, &str)> {
    let calls = code(source).split(".route(").skip(1);
    let read = calls.map(|call| {
        let (path, rest) = call.trim_start().strip_prefix('"')?.split_once('"')?;
        let (method, _) = rest.trim_start_matches([',', ' ', '\n']).split_once('(')?;
        Some((method, path))
    });
    read.map(|route| route.expect("a route is written as a literal path and a method")).collect()
}

/// Status and code of every refusal: a `StatusCode` with a word behind it.
#[must_use]
pub fn refusals(source: &str) -> BTreeSet<(u16, String)> {
    let written = code(source).split("StatusCode::").skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once(',')?;
        let (code, _) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
        let words = name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
            && code.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        words.then_some((name, code))
    });
    written.map(|(name, code)| (number(name), code.to_owned())).collect()
}

fn number(name: &str) -> u16 {
    match name {
        "BAD_REQUEST" => 400,
        "UNAUTHORIZED" => 401,
        "FORBIDDEN" => 403,
        "NOT_FOUND" => 404,
        "CONFLICT" => 409,
        "UNPROCESSABLE_ENTITY" => 422,
        "INTERNAL_SERVER_ERROR" => 500,
        "SERVICE_UNAVAILABLE" => 503,
        other => panic!("{other} has no number here"),
    }
}

/// `body` as `T` reads it and writes it again.
///
/// # Errors
/// What `T` refuses.
pub fn through<T: Serialize + DeserializeOwned>(body: &Value) -> Result<Value, String> {
    let read: T = serde_json::from_value(body.clone()).map_err(|error| error.to_string())?;
    serde_json::to_value(read).map_err(|error| error.to_string())
}
