//! Where manifests come from: files, folders, standard input.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::Mistake;

/// A text and the name that messages give it.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its path, as it was given or found.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// Reads every path: a file, a folder (its `.yaml`, `.yml` and `.json` files, by name), or `-`. Names every one that fails.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Source>, Vec<Mistake>> {
    let (mut sources, mut mistakes) = (Vec::new(), Vec::new());
    for path in paths {
        match read_one(path) {
            Ok(found) => sources.extend(found),
            Err((path, error)) => {
                let name = path.display().to_string();
                mistakes.push(Mistake { file: name, line: None, object: None, what: error });
            }
        }
    }
    if mistakes.is_empty() { Ok(sources) } else { Err(mistakes) }
}

fn read_one(path: &Path) -> Result<Vec<Source>, (PathBuf, String)> {
    if path == Path::new("-") {
        let mut text = String::new();
        let outcome = io::stdin().read_to_string(&mut text);
        outcome.map_err(|error| (PathBuf::from("standard input"), explain(&error)))?;
        return Ok(vec![Source { name: "standard input".to_owned(), text }]);
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| (path, explain(&error))
    };
    if !fs::metadata(path).map_err(failed(path))?.is_dir() {
        let text = fs::read_to_string(path).map_err(failed(path))?;
        return Ok(vec![Source { name: path.display().to_string(), text }]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed(path))? {
        let file = entry.map_err(failed(path))?.path();
        let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if matches!(extension, "yaml" | "yml" | "json") && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err((
            path.to_owned(),
            "holds no .yaml, .yml or .json file; name the files, or another folder".to_owned(),
        ));
    }
    let read = |file: PathBuf| {
        let text = fs::read_to_string(&file).map_err(failed(&file))?;
        Ok(Source { name: file.display().to_string(), text })
    };
    files.into_iter().map(read).collect()
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file or folder; correct the path given with -f".to_owned(),
        io::ErrorKind::InvalidData => "is not text in UTF-8; save it as UTF-8".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}
