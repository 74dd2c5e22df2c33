//! Manifests: what is decoded is consistent, and encodes to what decodes equal.

#![no_main]

use cryostore_format::envelope::ObjectType;
use cryostore_format::manifest::{Body, Manifest, Role, Stream};
use cryostore_fuzz::objects;
use libfuzzer_sys::fuzz_target;

fn check(manifest: &Manifest) {
    let stream = |n: u32| manifest.streams.get(n as usize);
    assert!(stream(0).is_some_and(|first| first.role == Role::Layout));
    for (n, s) in (0..).zip(&manifest.streams) {
        match (&s.body, manifest.slices(n)) {
            (Body::Recipe(recipe), Some(slices)) => {
                assert!(slices.count() as u64 <= recipe.slice_count())
            }
            (
                Body::Derived {
                    plain, corrections, ..
                },
                None,
            ) => {
                for part in [*plain, *corrections] {
                    assert!(matches!(
                        stream(part),
                        Some(Stream {
                            role: Role::Part,
                            body: Body::Recipe(_),
                            ..
                        })
                    ));
                }
            }
            _ => panic!("stream {n} has slices if and only if it is in chunks"),
        }
    }
    assert!(manifest.slices(u32::MAX).is_none());
    let literals: u128 = manifest
        .layout
        .pieces
        .iter()
        .map(|piece| u128::from(piece.literal))
        .sum();
    let members = manifest
        .layout
        .pieces
        .iter()
        .filter_map(|piece| piece.stream);
    let members: u128 = members
        .map(|n| u128::from(stream(n).filter(|s| s.role == Role::Member).unwrap().len))
        .sum();
    assert_eq!(literals, u128::from(manifest.streams[0].len));
    assert_eq!(literals + members, u128::from(manifest.layout.len));
    assert!(
        manifest
            .maps
            .iter()
            .filter_map(|map| map.stream)
            .all(|n| stream(n).is_some())
    );
    let bytes = manifest.encode();
    let again = Manifest::decode(&bytes);
    assert_eq!(again.as_ref(), Ok(manifest), "a manifest reads back");
    assert_eq!(again.unwrap().encode(), bytes);
}

fuzz_target!(|data: &[u8]| {
    let content = Manifest::decode_plain(data);
    if let Ok(manifest) = &content {
        check(manifest);
    }
    // Around each object the content is the same, so that only an envelope of the fuzzer's own is news.
    objects(
        ObjectType::Manifest,
        data,
        |object| match Manifest::decode(object) {
            Ok(manifest) if content.as_ref() != Ok(&manifest) => check(&manifest),
            _ => {}
        },
    );
});
