//! Reads the built library as the loader will: what it needs, what it exports, how
//! it reaches its thread storage. Each of these has broken every program of a
//! system at some time (P9), so they are tested on the file itself.

use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn, ElfFile64, FileHeader, Rela, SectionHeader};
use object::{Object, ObjectSymbol};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

type Elf<'a> = ElfFile64<'a, object::Endianness>;

/// Builds the library; cargo is quick when nothing changed.
fn library() -> Vec<u8> {
    let root = env!("CARGO_MANIFEST_DIR");
    let target =
        std::env::var("CARGO_TARGET_DIR").map_or(PathBuf::from(root).join("target"), PathBuf::from);
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--package", "ktlsshim"])
        .current_dir(root)
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::read(target.join("release/libktlsshim.so")).unwrap()
}

fn documented() -> BTreeSet<String> {
    include_str!("exports.txt")
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_library_is_fit_to_be_preloaded() {
    let data = library();
    let file = Elf::parse(&*data).unwrap();
    needs(&file);
    exports(&file);
    imports(&file);
    thread_storage(&file);
}

fn needs(file: &Elf) {
    let endian = file.endian();
    let sections = file.elf_section_table();
    let (dynamic, strings) = sections.dynamic(endian, file.data()).unwrap().unwrap();
    let strings = sections.strings(endian, file.data(), strings).unwrap();
    let allowed = [
        "libc.so.6",
        "libgcc_s.so.1",
        "libm.so.6",
        "ld-linux-x86-64.so.2",
    ];
    let mut flags = 0;
    for d in dynamic {
        match d.tag32(endian) {
            Some(elf::DT_NEEDED) => {
                let name = core::str::from_utf8(d.string(endian, strings).unwrap()).unwrap();
                assert!(allowed.contains(&name), "needs {name}");
            }
            Some(elf::DT_FLAGS) => flags = d.val32(endian).unwrap(),
            Some(elf::DT_SYMBOLIC | elf::DT_TEXTREL | elf::DT_RPATH | elf::DT_RUNPATH) => {
                panic!("{:x?}", d.tag32(endian))
            }
            _ => {}
        }
    }
    assert_eq!(
        flags & (elf::DF_STATIC_TLS | elf::DF_TEXTREL),
        elf::DF_STATIC_TLS
    );
}

fn exports(file: &Elf) {
    let found: BTreeSet<String> = file
        .dynamic_symbols()
        .filter(|s| s.is_definition())
        .map(|s| s.name().unwrap().to_owned())
        .collect();
    let listed = documented();
    let extra: Vec<_> = found.difference(&listed).collect();
    let lost: Vec<_> = listed.difference(&found).collect();
    assert!(
        extra.is_empty() && lost.is_empty(),
        "not in exports.txt: {extra:?}; not exported: {lost:?}"
    );
}

/// An undefined symbol must come from glibc or libgcc, by version.
fn imports(file: &Elf) {
    let endian = file.endian();
    let sections = file.elf_section_table();
    let symbols = sections
        .symbols(endian, file.data(), elf::SHT_DYNSYM)
        .unwrap();
    let versions = sections.versions(endian, file.data()).unwrap().unwrap();
    let mut checked = 0;
    for (index, symbol) in symbols.enumerate() {
        use object::read::elf::Sym;
        let name = core::str::from_utf8(symbol.name(endian, symbols.strings()).unwrap()).unwrap();
        if index.0 == 0 || !symbol.is_undefined(endian) || symbol.st_bind() == elf::STB_WEAK {
            continue;
        }
        checked += 1;
        let version = versions
            .version(versions.version_index(endian, index))
            .unwrap();
        let from = version.map_or("", |v| core::str::from_utf8(v.name()).unwrap());
        assert!(
            from.starts_with("GLIBC_") || from.starts_with("GCC_"),
            "{name} comes from {from:?}"
        );
        assert_ne!(from, "GLIBC_PRIVATE", "{name}");
        assert!(
            !documented().contains(name),
            "{name} is imported and exported"
        );
    }
    assert!(checked > 10, "no imports found: this test is broken");
}

/// Our slot is reached by its constant offset (TPOFF64). libstd has one block of its
/// own in the dynamic model; it is touched on panics only. The slot would need a
/// second module relocation, or none of the first kind would be there.
fn thread_storage(file: &Elf) {
    let endian = file.endian();
    let (mut fixed, mut modules) = (Vec::new(), 0);
    for section in file.elf_section_table().iter() {
        let Some((relocations, _)) = section.rela(endian, file.data()).unwrap() else {
            continue;
        };
        for r in relocations {
            match r.r_type(endian, false) {
                elf::R_X86_64_TPOFF64 => fixed.push(r.r_addend(endian) as u64),
                elf::R_X86_64_DTPMOD64 => modules += 1,
                elf::R_X86_64_DTPOFF64 => panic!("a named dynamic TLS symbol"),
                _ => {}
            }
        }
    }
    let slot = file
        .symbols()
        .find(|s| s.name() == Ok("ktlsshim_thread_slot"))
        .expect("the slot has no name: the library was stripped");
    assert!(
        fixed.contains(&slot.address()),
        "slot at {:#x}, TPOFF64 for {fixed:x?}",
        slot.address()
    );
    assert!(modules <= 1, "{modules} dynamic TLS relocations");
}

#[test]
fn the_header_is_what_this_test_understands() {
    let data = library();
    let header = FileHeader64::<object::Endianness>::parse(&*data).unwrap();
    assert_eq!(header.e_machine(header.endian().unwrap()), elf::EM_X86_64);
}
