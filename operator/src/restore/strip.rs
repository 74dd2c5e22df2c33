//! Owns what is taken out of an archive's descriptions before a runtime gets them: annotations that make devices, mounts or programs of the host out of
//! words in an archive (CVE-2026-53492 was such a one), and hooks.
//!
//! Always: each thing that is taken out is named; what two readers could read in two ways is refused, since Go's encoding/json, by which the runtimes read it,
//! takes the last of two equal keys, and keys in other letters. Never: passes on bytes of a description; what was understood is written anew.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The descriptions of a container in an archive. containerd reads annotations from status.dump, CRI-O and Podman from the other two.
pub(crate) const DESCRIPTIONS: [&str; 4] = ["config.dump", "spec.dump", "status.dump", "status"];
/// 16 MiB: they are a few kilobytes; with thousands of mounts some hundred.
pub(crate) const DESCRIPTION_LEN: u64 = 16 << 20;
/// Objects deeper than this are nobody's description.
const DEEPEST: usize = 32;
/// Down to here (Podman's specification and its annotations) keys have to be ASCII and differ in more than their case: Go takes `hook\u{17f}` for `hooks`.
const NAMED: usize = 3;

/// Reads a description; why it is none, else.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict(0).deserialize(&mut reader)?;
    reader.end()?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(serde_json::Error::custom("it is no object"))
    }
}

/// A value at this depth.
struct Strict(usize);

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value);
        number
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number is too large"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        self.check()?;
        let mut out = Vec::new();
        while let Some(value) = list.next_element_seed(Self(self.0 + 1))? {
            out.push(value);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.check()?;
        let (mut out, mut seen) = (Map::new(), BTreeSet::new());
        while let Some(key) = map.next_key::<String>()? {
            if self.0 < NAMED && !key.is_ascii() {
                return Err(A::Error::custom("a key is not ASCII"));
            }
            let same = if self.0 < NAMED {
                key.to_ascii_lowercase()
            } else {
                key.clone()
            };
            if !seen.insert(same) {
                return Err(A::Error::custom("a key comes twice"));
            }
            let value = map.next_value_seed(Self(self.0 + 1))?;
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

impl Strict {
    fn check<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.0 > DEEPEST {
            return Err(E::custom("it is nested too deep"));
        }
        Ok(())
    }
}

/// True for an annotation by which an archive could reach outside of its container.
fn is_dangerous(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    // Devices of the host; programs that the runtime starts; files with options for CRIU, one of which runs a program.
    key.contains("cdi.k8s.io")
        || key.starts_with("run.oci.")
        || key.starts_with("org.criu.")
        || key.starts_with("io.containers.trace-syscall")
        || key.contains("oci-hook")
        || key.contains("oci.hook")
}

/// Takes it out, in place.
pub(crate) fn clean(json: &mut Value) -> Vec<String> {
    let mut gone = Vec::new();
    walk(json, &mut gone, 0);
    gone.sort();
    gone.dedup();
    gone
}

fn walk(json: &mut Value, gone: &mut Vec<String>, depth: usize) {
    if depth > DEEPEST {
        return;
    }
    match json {
        Value::Array(list) => list
            .iter_mut()
            .for_each(|inner| walk(inner, gone, depth + 1)),
        Value::Object(map) => {
            map.retain(|key, value| {
                let is_one = ["hooks", "cdiDevices"]
                    .iter()
                    .any(|known| key.eq_ignore_ascii_case(known));
                let stays = !is_one || is_empty(value);
                if !stays {
                    gone.push(key.clone());
                }
                stays
            });
            for (key, inner) in map.iter_mut() {
                match inner {
                    Value::Object(notes) if key.eq_ignore_ascii_case("annotations") => {
                        annotations(notes, gone);
                    }
                    _ => walk(inner, gone, depth + 1),
                }
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn annotations(notes: &mut Map<String, Value>, gone: &mut Vec<String>) {
    notes.retain(|key, _| {
        let stays = !is_dangerous(key);
        if !stays {
            gone.push(key.clone());
        }
        stays
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn devices_hooks_and_criu_options_go_and_all_else_stays() {
        let mut spec = json!({
            "ociVersion": "1.2.1", "hooks": {"prestart": [{"path": "/bin/sh"}]},
            "annotations": {
                "cdi.k8s.io/gpu": "vendor.com/gpu=0", "nvidia.cdi.k8s.io/x": "1", "run.oci.hooks.stdout": "/f", "org.criu.config": "/tmp/c",
                "io.kubernetes.cri.container-name": "app",
            },
            "process": {"args": ["hooks"]},
        });
        let gone = clean(&mut spec);
        assert_eq!(
            gone,
            [
                "cdi.k8s.io/gpu",
                "hooks",
                "nvidia.cdi.k8s.io/x",
                "org.criu.config",
                "run.oci.hooks.stdout"
            ]
        );
        assert_eq!(
            spec,
            json!({
                "ociVersion": "1.2.1", "annotations": {"io.kubernetes.cri.container-name": "app"}, "process": {"args": ["hooks"]},
            })
        );
        assert!(clean(&mut spec).is_empty());
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_no_description() {
        let deep = format!("{}1{}", r#"{"a":"#.repeat(40), "}".repeat(40));
        for text in [
            br#"{"annotations":{},"annotations":{"cdi.k8s.io/x":"y"}}"#.as_slice(),
            br#"{"annotations":{},"Annotations":{"cdi.k8s.io/x":"y"}}"#,
            br#"{"a":{"b":{"c":1,"c":2}}}"#,
            "{\"annotation\u{17f}\":{}}".as_bytes(),
            br#"{"hoo\u212as":{}}"#,
            b"{\"a\":\"\xff\"}",
            br#"{"a":"\ud800"}"#,
            br#"{"a":1e999}"#,
            br#"{} {"annotations":{}}"#,
            b"[[[[",
            b"[]",
            b"",
            deep.as_bytes(),
        ] {
            let said = String::from_utf8_lossy(text);
            assert!(parse(text).is_err(), "{said}");
        }
        let whole = br#"{"a":[1,-2,1.5,"\u00e9",null,true],"b":{"c":{}}}"#;
        assert_eq!(
            parse(whole).unwrap(),
            serde_json::from_slice::<Value>(whole).unwrap()
        );
    }

    #[test]
    fn other_letters_do_not_hide_anything() {
        let mut spec = json!({"Hooks": {"prestart": [1]}, "ANNOTATIONS": {"Org.CRIU.config": "x"}, "CDIDevices": ["a"]});
        assert_eq!(clean(&mut spec), ["CDIDevices", "Hooks", "Org.CRIU.config"]);
        assert_eq!(spec, json!({"ANNOTATIONS": {}}));
    }

    #[test]
    fn podmans_description_holds_the_specification_one_level_deeper() {
        let mut config = json!({"spec": {"annotations": {"cdi.k8s.io/x": "y"}, "hooks": {}}, "cdiDevices": ["a"]});
        assert_eq!(clean(&mut config), ["cdi.k8s.io/x", "cdiDevices"]);
    }
}
