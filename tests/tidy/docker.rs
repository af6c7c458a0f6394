//! The Dockerfile, for machines without a container engine: its stages, what it copies, whom it runs as.

use crate::tree;

#[derive(Debug)]
struct Instruction {
    word: String,
    rest: String,
}

fn instructions() -> Vec<Instruction> {
    let text = tree::read("Dockerfile").replace("\\\n", " ");
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (word, rest) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            let rest = rest.trim().to_owned();
            let word = word.to_owned();
            Instruction { word, rest }
        })
        .collect()
}

fn of(word: &str) -> Vec<String> {
    let all = instructions().into_iter();
    all.filter(|i| i.word == word).map(|i| i.rest).collect()
}

#[test]
fn the_dockerfile_has_a_build_stage_and_a_slim_last_one() {
    let stages = of("FROM");
    assert_eq!(stages.len(), 2, "{stages:?}");
    assert!(stages[0].ends_with(" AS build"), "{stages:?}");
    assert!(stages[1].contains("-slim"), "{stages:?}");
    let known = [
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "USER",
        "EXPOSE",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
        "VOLUME",
        "STOPSIGNAL",
    ];
    for instruction in instructions() {
        assert!(
            known.contains(&instruction.word.as_str()),
            "{instruction:?}"
        );
    }
}

#[test]
fn every_path_that_the_dockerfile_copies_exists() {
    let mut visited = 0;
    for copy in of("COPY") {
        let mut words: Vec<_> = copy.split_whitespace().collect();
        words.pop();
        if words[0].starts_with("--from=") {
            assert_eq!(words[0], "--from=build", "{copy}");
            let binary = words[1].rsplit_once('/').unwrap().1;
            assert!(
                ["opencmg", "LICENSE"].contains(&binary) || tree::root().join(binary).exists(),
                "{copy}"
            );
            continue;
        }
        for path in words.iter().filter(|word| !word.starts_with("--")) {
            visited += 1;
            assert!(tree::root().join(path).exists(), "{path} does not exist");
        }
    }
    assert!(visited >= 3, "only {visited} paths were visited");
}

#[test]
fn the_container_is_not_root_and_says_how_it_is_doing() {
    let all = instructions();
    let last_stage = all.iter().rposition(|i| i.word == "FROM").unwrap();
    let words: Vec<_> = all[last_stage..].iter().map(|i| i.word.as_str()).collect();
    for word in ["USER", "HEALTHCHECK", "ENTRYPOINT"] {
        assert!(words.contains(&word), "no {word} in the last stage");
    }
    let users = of("USER");
    assert!(
        users
            .iter()
            .all(|user| !user.starts_with("root") && !user.starts_with('0')),
        "{users:?}"
    );
    assert!(of("HEALTHCHECK")[0].contains("/healthz"));
}
