//! Owns the look at what is around a place where a repository is to be made.
//!
//! Always: a few requests, however much lies there. Never: reads an object.

use cryostore_format::repository::OBJECT_NAME;
use object_store::path::Path;
use object_store::{Error as Os, ListResult, ObjectStore, ObjectStoreExt};

use super::Store;
use crate::error::Result;

/// Levels below a place that are looked through for repositories.
const DEPTH: usize = 3;
/// Prefixes of one level that are looked into: more are no repositories that somebody keeps in order.
const WIDTH: usize = 32;

/// What is around a place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// A repository in which the place lies.
    pub above: Option<String>,
    /// Repositories that lie in the place.
    pub below: Vec<String>,
    /// Something else that lies there: its name.
    pub foreign: Option<String>,
    /// There is a repository already.
    pub here: bool,
}

impl Store {
    /// What is around this place.
    pub fn neighbours(&self) -> Result<Neighbours> {
        let mut out = Neighbours::default();
        if let Some(root) = &self.local {
            let mut above = root.ancestors().skip(1);
            let found = above.find(|dir| dir.join(OBJECT_NAME).is_file());
            out.above = found.map(|dir| dir.display().to_string());
        }
        let looked = self.bridge.wait(async {
            if let Some((bucket, prefix)) = &self.bucket {
                out.above = above(&**bucket, prefix).await?;
            }
            let (top, here) = look(&*self.objects, &Path::default()).await?;
            out.here = here;
            out.foreign = top
                .objects
                .iter()
                .map(|object| object.location.to_string())
                .find(|name| name != OBJECT_NAME);
            for dir in top.common_prefixes {
                // The root of a new file system has it.
                if dir.as_ref() == "lost+found" {
                    continue;
                }
                let before = out.below.len();
                below(&*self.objects, &dir, &mut out.below).await?;
                if out.below.len() == before {
                    out.foreign.get_or_insert(dir.to_string());
                }
            }
            Ok(())
        });
        looked.map_err(|e| self.error("looking around", "", e))?;
        Ok(out)
    }
}

async fn look(objects: &dyn ObjectStore, dir: &Path) -> Result<(ListResult, bool), Os> {
    let list = objects.list_with_delimiter(Some(dir)).await?;
    let here = dir.clone().join(OBJECT_NAME);
    let is_there = list.objects.iter().any(|object| object.location == here);
    Ok((list, is_there))
}

/// The nearest prefix above that holds a repository.
async fn above(bucket: &dyn ObjectStore, prefix: &Path) -> Result<Option<String>, Os> {
    let parts: Vec<_> = prefix.parts().collect();
    for n in (0..parts.len()).rev() {
        let dir: Path = parts.iter().take(n).cloned().collect();
        match bucket.head(&dir.clone().join(OBJECT_NAME)).await {
            Ok(_) => {
                return Ok(Some(if n == 0 {
                    "the bucket's root".to_owned()
                } else {
                    dir.to_string()
                }));
            }
            Err(Os::NotFound { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// Adds the repositories below a prefix.
async fn below(objects: &dyn ObjectStore, dir: &Path, out: &mut Vec<String>) -> Result<(), Os> {
    let mut dirs = vec![dir.clone()];
    for _ in 0..DEPTH {
        let mut deeper = Vec::new();
        for dir in dirs {
            let (list, is_there) = look(objects, &dir).await?;
            if is_there {
                out.push(dir.to_string());
            } else {
                deeper.extend(list.common_prefixes.into_iter().take(WIDTH));
            }
        }
        deeper.truncate(WIDTH);
        dirs = deeper;
    }
    Ok(())
}
