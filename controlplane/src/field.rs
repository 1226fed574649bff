//! What an operator wrote, as values that know their path. Reading never stops at the first
//! mistake: each is kept as an [`Invalid`], and the rest is read on.
//!
//! [`tree`] turns TOML into the same [`Tree`] that JSON gives; [`Field`] is one place in it,
//! [`Table`] a place with named parts, [`Refusals`] where the mistakes gather.

use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// How many mistakes are told; a hostile document could have millions.
pub const MOST_REFUSALS: usize = 1000;

/// How much of a text is repeated in a refusal, in characters.
const LONGEST_QUOTE: usize = 80;

/// One mistake: where it is, what belongs there, and what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Invalid {
    /// Where: `service[2].server[0].address`, counted from 0; for text that is no TOML, its line
    /// and column.
    #[schema(example = "service[2].server[0].address")]
    pub path: String,
    /// What belongs there, with an example.
    #[schema(example = "an address, such as 10.0.0.7")]
    pub expected: String,
    /// What is there.
    #[schema(example = "\"10.0.0.7:80\"")]
    pub found: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, expected, found } = self;
        let path = if path.is_empty() { "configuration" } else { path };
        write!(f, "{path}: expected {expected}, found {found}")
    }
}

/// Where mistakes gather, up to [`MOST_REFUSALS`] of them.
#[derive(Debug, Default)]
pub struct Refusals {
    told: Vec<Invalid>,
    untold: usize,
}

impl Refusals {
    /// Keeps a mistake.
    pub fn add(&mut self, mistake: Invalid) {
        if self.told.len() < MOST_REFUSALS {
            self.told.push(mistake);
        } else {
            self.untold += 1;
        }
    }

    /// The value, or nothing and the mistake is kept.
    pub fn keep<T>(&mut self, read: Result<T, Invalid>) -> Option<T> {
        read.map_err(|mistake| self.add(mistake)).ok()
    }

    /// Whether another mistake would still be told.
    fn has_room(&self) -> bool {
        self.told.len() < MOST_REFUSALS
    }

    /// Whether no mistake was found.
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// Every mistake; the last one says how many more there are, if they were too many.
    pub fn into_told(mut self) -> Vec<Invalid> {
        if self.untold > 0 {
            self.told.push(Invalid {
                path: String::new(),
                expected: "no more mistakes than these".into(),
                found: format!("{} more", self.untold),
            });
        }
        self.told
    }
}

/// TOML as the tree that JSON would give.
///
/// # Errors
/// The first place where the text is no TOML, by line and column.
pub fn tree(text: &str) -> Result<Value, Invalid> {
    let table = text.parse::<toml::Table>().map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let before = text.get(..start).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&letter| letter != '\n').count() + 1;
        Invalid {
            path: format!("line {line}, column {column}"),
            expected: "TOML".into(),
            found: format!("a mistake: {}", error.message().trim_end().replace('\n', ", ")),
        }
    })?;
    Ok(Value::Object(table.into_iter().map(|(name, value)| (name, json(value))).collect()))
}

/// The parser bounds how deep values lie in each other, so this recursion is bounded too.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => Value::from(number),
        toml::Value::Float(number) => Value::from(number),
        toml::Value::Boolean(truth) => Value::Bool(truth),
        toml::Value::Datetime(date) => Value::String(date.to_string()),
        toml::Value::Array(items) => items.into_iter().map(json).collect(),
        toml::Value::Table(table) => {
            Value::Object(table.into_iter().map(|(name, value)| (name, json(value))).collect())
        }
    }
}

/// JSON as a tree in which no name stands twice. A plain [`Value`] would keep the last of them and
/// say nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree(pub Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Planter).map(Self)
    }
}

struct Planter;

impl<'de> Visitor<'de> for Planter {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(truth.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Tree(item)) = list.next_element()? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Value, A::Error> {
        let mut parts = Map::new();
        while let Some(name) = table.next_key::<String>()? {
            if parts.contains_key(&name) {
                return Err(A::Error::custom(format!("duplicate name {}", quote(&name))));
            }
            let Tree(value) = table.next_value()?;
            parts.insert(name, value);
        }
        Ok(parts.into())
    }
}

/// One place in the tree: its path, and what is there, if anything is.
#[derive(Debug, Clone)]
pub struct Field<'v> {
    path: String,
    value: Option<&'v Value>,
}

impl<'v> Field<'v> {
    /// The whole document.
    pub fn root(value: &'v Value) -> Self {
        Self { path: String::new(), value: Some(value) }
    }

    /// Where it is.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether anything is there.
    pub fn is_given(&self) -> bool {
        self.value.is_some()
    }

    /// Whether it is a text with this letter in it.
    pub fn holds(&self, letter: char) -> bool {
        self.value.and_then(Value::as_str).is_some_and(|text| text.contains(letter))
    }

    /// The refusal of what is there.
    pub fn expected(&self, expected: impl Into<String>) -> Invalid {
        let found = match self.value {
            None => "nothing".into(),
            Some(Value::String(text)) => quote(text),
            Some(Value::Array(_)) => "a list".into(),
            Some(Value::Object(_)) => "a table".into(),
            Some(plain) => plain.to_string(),
        };
        self.refuse(expected, found)
    }

    /// A refusal with its own words for what is there.
    pub fn refuse(&self, expected: impl Into<String>, found: impl Into<String>) -> Invalid {
        Invalid { path: self.path.clone(), expected: expected.into(), found: found.into() }
    }

    /// What `read` makes of it, or `default` if nothing is there.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn or<T>(
        &self,
        default: T,
        read: impl FnOnce(&Self) -> Result<T, Invalid>,
    ) -> Result<T, Invalid> {
        if self.is_given() { read(self) } else { Ok(default) }
    }

    /// What `read` makes of it, if anything is there.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn optional<T>(
        &self,
        read: impl FnOnce(&Self) -> Result<T, Invalid>,
    ) -> Result<Option<T>, Invalid> {
        self.or(None, |field| read(field).map(Some))
    }

    /// Text of at most `longest` bytes.
    ///
    /// # Errors
    /// Anything else.
    pub fn text(&self, longest: usize, expected: &str) -> Result<&'v str, Invalid> {
        match self.value {
            Some(Value::String(text)) if text.len() <= longest => Ok(text),
            Some(Value::String(text)) => Err(self.refuse(
                format!("{expected}, of at most {longest} bytes"),
                format!("{} bytes", text.len()),
            )),
            _ => Err(self.expected(expected)),
        }
    }

    /// What `parse` makes of a short text.
    ///
    /// # Errors
    /// Anything that is no text, or that `parse` makes nothing of.
    pub fn parsed<T>(
        &self,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Invalid> {
        parse(self.text(255, expected)?).ok_or_else(|| self.expected(expected))
    }

    /// A whole number within `range`.
    ///
    /// # Errors
    /// Anything else.
    pub fn number(&self, range: RangeInclusive<u32>) -> Result<u32, Invalid> {
        self.value
            .and_then(Value::as_u64)
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                self.expected(format!("a whole number, {} to {}", range.start(), range.end()))
            })
    }

    /// True or false.
    ///
    /// # Errors
    /// Anything else.
    pub fn truth(&self) -> Result<bool, Invalid> {
        self.value.and_then(Value::as_bool).ok_or_else(|| self.expected("true or false"))
    }

    /// The items of a list of at most `most`; none if nothing is there.
    ///
    /// # Errors
    /// Anything else.
    pub fn items(&self, most: usize, expected: &str) -> Result<Vec<Field<'v>>, Invalid> {
        let items = match self.value {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(self.expected(expected)),
        };
        if items.len() > most {
            return Err(self.refuse(format!("at most {most} items"), items.len().to_string()));
        }
        let field =
            |(index, value)| Field { path: format!("{}[{index}]", self.path), value: Some(value) };
        Ok(items.iter().enumerate().map(field).collect())
    }

    /// The part of this name, whether this is a table or not.
    pub fn part(&self, name: &str) -> Field<'v> {
        let parts = self.value.and_then(Value::as_object);
        Table { path: self.path.clone(), parts }.at(name)
    }

    /// The named parts of a table; none of them if nothing is there. Names outside `shape` are
    /// refused here.
    pub fn table(&self, shape: &Shape, refusals: &mut Refusals) -> Option<Table<'v>> {
        let parts = match self.value {
            None => None,
            Some(Value::Object(parts)) => Some(parts),
            Some(_) => {
                refusals.add(self.expected(format!("a table with {}", shape.known.join(", "))));
                return None;
            }
        };
        let table = Table { path: self.path.clone(), parts };
        for name in parts.into_iter().flat_map(Map::keys) {
            if shape.known.contains(&name.as_str()) {
                continue;
            }
            if refusals.has_room() {
                refusals.add(shape.refuse(name, &table));
            } else {
                refusals.untold += 1;
            }
        }
        Some(table)
    }
}

/// The names that a table may have.
#[derive(Debug)]
pub struct Shape {
    /// Those there are.
    pub known: &'static [&'static str],
    /// Those that a later release brings, with what stands there instead.
    pub later: &'static [(&'static str, &'static str)],
}

impl Shape {
    fn refuse(&self, name: &str, table: &Table<'_>) -> Invalid {
        let field = table.at(name);
        if let Some((_, expected)) = self.later.iter().find(|(later, _)| *later == name) {
            return field.expected(*expected);
        }
        let expected = match self.nearest(name) {
            Some(known) => format!("a known name (did you mean \"{known}\"?)"),
            None => format!("one of {}", self.known.join(", ")),
        };
        field.refuse(expected, quote(name))
    }

    /// The known name that is likely meant: at most a third of its letters differ.
    fn nearest(&self, name: &str) -> Option<&'static str> {
        if name.len() > 64 {
            return None;
        }
        let distance = |known: &&str| strsim::damerau_levenshtein(&name.to_lowercase(), known);
        let nearest = self.known.iter().copied().min_by_key(distance)?;
        (distance(&nearest) <= nearest.len().div_ceil(3)).then_some(nearest)
    }
}

/// A place with named parts.
#[derive(Debug)]
pub struct Table<'v> {
    path: String,
    parts: Option<&'v Map<String, Value>>,
}

impl<'v> Table<'v> {
    /// Whether no part is there.
    pub fn is_empty(&self) -> bool {
        self.parts.is_none_or(Map::is_empty)
    }

    /// The part of this name, whether it is there or not.
    pub fn at(&self, name: &str) -> Field<'v> {
        let plain = |letter: u8| letter.is_ascii_alphanumeric() || b"_-".contains(&letter);
        let shown = if !name.is_empty() && name.len() <= LONGEST_QUOTE && name.bytes().all(plain) {
            name.into()
        } else {
            quote(name)
        };
        let path = if self.path.is_empty() { shown } else { format!("{}.{shown}", self.path) };
        Field { path, value: self.parts.and_then(|parts| parts.get(name)) }
    }
}

/// A text between quotation marks, shortened if it is long, with control characters spelled out.
fn quote(text: &str) -> String {
    let (start, dots) = match text.char_indices().nth(LONGEST_QUOTE) {
        Some((end, _)) => (&text[..end], "…"),
        None => (text, ""),
    };
    format!("{}{dots}", Value::from(start))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SHAPE: Shape = Shape {
        known: &["name", "address", "mtu"],
        later: &[("vlan", "no vlan: VLANs are not there yet")],
    };

    fn refusals_of(value: &Value) -> Vec<String> {
        let mut refusals = Refusals::default();
        Field::root(value).table(&SHAPE, &mut refusals);
        refusals.into_told().iter().map(Invalid::to_string).collect()
    }

    #[test]
    fn a_refusal_gives_the_path_what_was_expected_and_what_was_found() {
        let value = json!({ "service": [{}, { "server": [{ "address": "10.0.0.7:80" }] }] });
        let shape = Shape { known: &["service", "server", "address"], later: &[] };
        let mut refusals = Refusals::default();
        let root = Field::root(&value).table(&shape, &mut refusals).unwrap();
        let services = root.at("service").items(9, "").unwrap();
        let service = services[1].table(&shape, &mut refusals).unwrap();
        let server = service.at("server").items(9, "").unwrap().remove(0);
        let address = server.table(&shape, &mut refusals).unwrap().at("address");
        assert_eq!(
            address.expected("an address, such as 10.0.0.7").to_string(),
            "service[1].server[0].address: \
             expected an address, such as 10.0.0.7, found \"10.0.0.7:80\""
        );
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_one_that_is_nearest() {
        assert_eq!(
            refusals_of(&json!({ "adress": 1 })),
            ["adress: expected a known name (did you mean \"address\"?), found \"adress\""]
        );
        assert_eq!(
            refusals_of(&json!({ "colour": 1 })),
            ["colour: expected one of name, address, mtu, found \"colour\""]
        );
    }

    #[test]
    fn a_name_of_a_later_release_is_refused_in_plain_words() {
        assert_eq!(
            refusals_of(&json!({ "vlan": 5 })),
            ["vlan: expected no vlan: VLANs are not there yet, found 5"]
        );
    }

    #[test]
    fn long_and_strange_texts_are_shortened_and_spelled_out() {
        let told = refusals_of(&json!({ "a\u{1b}\n": 1, "é".repeat(100_000): 1 }));
        assert_eq!(told[0].split(':').next(), Some(r#""a\u001b\n""#));
        assert!(told[1].len() < 500, "{}", told[1].len());
    }

    #[test]
    fn too_many_mistakes_are_counted_and_not_told() {
        let many: Map<_, _> = (0..5000).map(|n| (format!("x{n}"), Value::Null)).collect();
        let told = refusals_of(&Value::Object(many));
        assert_eq!(told.len(), MOST_REFUSALS + 1);
        assert!(told[MOST_REFUSALS].ends_with("found 4000 more"), "{}", told[MOST_REFUSALS]);
    }

    #[test]
    fn a_number_out_of_range_negative_broken_or_quoted_is_refused() {
        for value in [json!(0), json!(10), json!(-1), json!(1.5), json!("5"), json!(null)] {
            assert!(Field::root(&value).number(1..=9).is_err(), "{value}");
        }
        assert_eq!(Field::root(&json!(9)).number(1..=9), Ok(9));
    }

    #[test]
    fn text_that_is_no_toml_is_refused_with_line_and_column() {
        let refusal = tree("[node]\nname = \"lb1\nx = 1\n").unwrap_err();
        assert_eq!(refusal.path, "line 2, column 12");
        let refusal = tree("a = 1\na = 2\n").unwrap_err();
        assert_eq!(refusal.path, "line 2, column 1");
        assert_eq!(refusal.found, "a mistake: duplicate key");
    }

    #[test]
    fn a_name_that_stands_twice_is_refused_in_json_too() {
        let error =
            serde_json::from_str::<Tree>("{ \"a\": [{ \"b\": 1,\n\"b\": 2 }] }").unwrap_err();
        assert_eq!(error.to_string(), "duplicate name \"b\" at line 2 column 3");
    }

    proptest::proptest! {
        #[test]
        fn json_without_such_names_is_the_same_tree(
            numbers in proptest::prelude::any::<(i64, u64, f64)>(),
            texts in proptest::prelude::any::<(String, String)>(),
        ) {
            let value = json!({ "n": numbers, "t": texts.0, texts.1: [null, true, {}, []] });
            let tree: Tree = serde_json::from_str(&value.to_string()).unwrap();
            let plain: Value = serde_json::from_str(&value.to_string()).unwrap();
            proptest::prop_assert_eq!(tree.0, plain);
        }
    }

    #[test]
    fn text_that_nests_without_end_is_refused() {
        let lists = format!("a = {}", "[".repeat(100_000));
        let tables = format!("a = {}", "{ a = ".repeat(100_000));
        let names = format!("{}a = 1", "a.".repeat(100_000));
        let headers = format!("[{}a]", "a.".repeat(100_000));
        for text in [lists, tables, names, headers] {
            assert!(tree(&text).is_err(), "{}", &text[..20]);
        }
    }

    #[test]
    fn toml_and_json_give_the_same_tree() {
        let value = tree("a = 1_000\nb = [true, \"x\"]\n[[c]]\nd = 1.5\n").unwrap();
        assert_eq!(value, json!({ "a": 1000, "b": [true, "x"], "c": [{ "d": 1.5 }] }));
    }
}
