//! Vulkan drivers by their manifests: for when one of them brings down, or holds up, whoever lists the devices of all.
//!
//! The loader takes drivers from the files that variables name, or else from the system's folders. Knows nothing of workers.

use std::ffi::OsString;
use std::path::PathBuf;

/// Names drivers in place of the system's folders: files, or folders of files.
const DRIVERS: &str = "VK_DRIVER_FILES";
/// The same by its old name; nothing where the new one is given.
const OLD_NAME: &str = "VK_ICD_FILENAMES";
/// Names more drivers.
const MORE: &str = "VK_ADD_DRIVER_FILES";
/// Where the system has them, below its data folders.
const FOLDER: &str = "vulkan/icd.d";
/// More drivers than this are not looked at one by one.
const MOST: usize = 16;

/// The manifests that the loader would read, with what each variable holds, in its order.
pub(super) fn all(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let paths = |name: &str| -> Vec<PathBuf> {
        let value = variable(name).filter(|value| !value.is_empty());
        value.map(|value| std::env::split_paths(&value).collect()).unwrap_or_default()
    };
    let mut given = paths(DRIVERS);
    if given.is_empty() {
        given = paths(OLD_NAME);
    }
    if given.is_empty() {
        let home = |name: &str, usual: &str| {
            let path = variable(name).map(PathBuf::from);
            path.or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(usual)))
        };
        given.extend(home("XDG_CONFIG_HOME", ".config"));
        given.extend(["/etc/xdg", "/usr/local/etc", "/etc"].map(PathBuf::from));
        given.extend(home("XDG_DATA_HOME", ".local/share"));
        let data = paths("XDG_DATA_DIRS");
        given.extend(if data.is_empty() {
            ["/usr/local/share", "/usr/share"].map(PathBuf::from).to_vec()
        } else {
            data
        });
        for path in &mut given {
            path.push(FOLDER);
        }
    }
    given.extend(paths(MORE));
    let mut found: Vec<PathBuf> = Vec::new();
    for path in given {
        let files = match std::fs::read_dir(&path) {
            Ok(files) => {
                let mut files: Vec<_> = files.flatten().map(|entry| entry.path()).collect();
                files.sort();
                files
            }
            Err(_) => vec![path],
        };
        for file in files {
            if file.is_file() && file.extension().is_some_and(|ending| ending == "json") && !found.contains(&file) {
                found.push(file);
            }
        }
    }
    found.truncate(MOST);
    found
}

/// Variables under which the loader reads these manifests and no others; `None` if they have no form as a list.
pub(super) fn only(manifests: &[PathBuf]) -> Option<Vec<(OsString, OsString)>> {
    let list = std::env::join_paths(manifests).ok()?;
    Some(vec![(DRIVERS.into(), list), (OLD_NAME.into(), OsString::new()), (MORE.into(), OsString::new())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_those_that_the_loader_would_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "{}").unwrap();
            path
        };
        let (one, two, more) = (file("a/one.json"), file("a/two.json"), file("b/more.json"));
        file("a/readme.txt");
        let (system, home) = (file("share/vulkan/icd.d/system.json"), file("home/.local/share/vulkan/icd.d/home.json"));
        let with = |variables: &[(&str, OsString)]| {
            all(|name| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| value.clone()))
        };
        let list = |paths: &[&PathBuf]| std::env::join_paths(paths).unwrap();
        let data = || ("XDG_DATA_DIRS", folder.path().join("share").into_os_string());
        assert_eq!(with(&[(DRIVERS, list(&[&two, &one])), data()]), [two.clone(), one.clone()]);
        assert_eq!(with(&[(DRIVERS, folder.path().join("a").into())]), [one.clone(), two.clone()], "a folder");
        // The new name holds.
        assert_eq!(with(&[(OLD_NAME, list(&[&two])), (DRIVERS, list(&[&one]))]).as_slice(), std::slice::from_ref(&one));
        assert_eq!(with(&[(OLD_NAME, list(&[&two])), (MORE, list(&[&more, &two]))]), [two.clone(), more.clone()]);
        let found = with(&[data(), ("HOME", folder.path().join("home").into()), (DRIVERS, OsString::new())]);
        assert_eq!(found.iter().filter(|path| path.starts_with(&folder)).collect::<Vec<_>>(), [&home, &system]);
        let missing = folder.path().join("none.json");
        assert!(with(&[(DRIVERS, list(&[&missing]))]).is_empty());
        let only = only(&[one.clone(), two.clone()]).unwrap();
        assert_eq!(
            all(|name| only.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())),
            [one, two]
        );
    }
}
