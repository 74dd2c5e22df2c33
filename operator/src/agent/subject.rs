//! Owns what a client's certificate says about who has it: the subject's common name, and its organisations. To Kubernetes they are user and groups.
//!
//! Always: bounded by the bytes that are there. Never: decides whether the certificate is to be believed; that was done when the connection was made.

/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.4.10
const ORGANISATION: &[u8] = &[0x55, 0x04, 0x0a];

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
/// UTF8String, PrintableString, IA5String: all of them are UTF-8, too.
const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];

/// User and groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) common_name: String,
    pub(crate) organisations: Vec<String>,
}

/// One element of DER: tag, content, what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // A name has fewer than 65536 bytes.
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => {
            let [high, low] = *rest.first_chunk::<2>()?;
            let len = usize::from(high) << 8 | usize::from(low);
            (len, rest.get(2..)?)
        }
        _ => return None,
    };
    Some((tag, rest.get(..len)?, rest.get(len..)?))
}

/// Reads the content of a Name: sets of pairs of a type and a value. None: it is no such thing, or has no common name.
pub(crate) fn subject(mut name: &[u8]) -> Option<Subject> {
    let mut out = Subject::default();
    while !name.is_empty() {
        let (tag, mut set, rest) = element(name)?;
        name = rest;
        if tag != SET {
            return None;
        }
        while !set.is_empty() {
            let (tag, pair, rest) = element(set)?;
            set = rest;
            let (kind, id, pair) = element(pair)?;
            let (text, value, end) = element(pair)?;
            if tag != SEQUENCE || kind != OBJECT_ID || !end.is_empty() {
                return None;
            }
            if id != COMMON_NAME && id != ORGANISATION {
                continue;
            }
            // Another form of text would be another name than the one that the API server reads.
            let value = std::str::from_utf8(value).ok();
            let value = value.filter(|_| TEXTS.contains(&text))?.to_owned();
            if id == COMMON_NAME {
                out.common_name = value;
            } else {
                out.organisations.push(value);
            }
        }
    }
    (!out.common_name.is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(id: &[u8], tag: u8, text: &str) -> Vec<u8> {
        let wrap = |tag: u8, inner: &[u8]| {
            let mut out = vec![tag, u8::try_from(inner.len()).unwrap()];
            out.extend_from_slice(inner);
            out
        };
        let pair = [wrap(OBJECT_ID, id), wrap(tag, text.as_bytes())].concat();
        wrap(SET, &wrap(SEQUENCE, &pair))
    }

    #[test]
    fn user_and_groups_are_read_from_a_name() {
        let name = [
            part(&[0x55, 0x04, 0x06], 0x13, "CH"),
            part(ORGANISATION, 0x13, "system:masters"),
            part(ORGANISATION, 0x0c, "zweite"),
            part(COMMON_NAME, 0x0c, "kubernetes-admin"),
        ]
        .concat();
        let found = subject(&name).unwrap();
        assert_eq!(found.common_name, "kubernetes-admin");
        assert_eq!(found.organisations, ["system:masters", "zweite"]);
    }

    #[test]
    fn a_name_that_is_cut_or_changed_anywhere_is_refused_or_another_name_and_never_more_than_that()
    {
        let name = [
            part(ORGANISATION, 0x13, "org"),
            part(COMMON_NAME, 0x0c, "robot"),
        ]
        .concat();
        for len in 0..name.len() {
            assert_eq!(subject(&name[..len]), None, "{len}");
        }
        for at in 0..name.len() {
            for value in 0..=u8::MAX {
                let mut bytes = name.clone();
                bytes[at] = value;
                let _ = subject(&bytes);
            }
        }
        assert_eq!(subject(&part(COMMON_NAME, 0x1e, "ab")), None, "UTF-16");
        assert_eq!(subject(&part(ORGANISATION, 0x13, "org")), None);
    }
}
