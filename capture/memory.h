// Reading an address space.
//
// Two sources. /proc/PID/maps is cheap (20 us for a small process, 225 us for 1,000 mappings) and tells ranges,
// protections and objects. /proc/PID/smaps tells the marks too (madvise, mlock, mseal), but walks the page tables: 8.4
// ms for 1 GiB of 4 KiB pages, 11 ms for 1,000 mappings (measured, Linux 6.18). So a snapshot reads smaps, and a
// rollback reads maps and carries the marks over from the snapshot where a mapping's object is the same
// (read_memory_again).
//
// A protection key (pkeys(7)) can change with nothing in maps to show for it: where the task uses any, smaps is read,
// too. What carrying cannot see otherwise is mended by apply/memory, which states the wanted marks anew with madvise(2)
// on every rollback (0.4 us a call, one call for many mappings). Three things stay unseen: a MADV_HUGEPAGE or
// MADV_NOHUGEPAGE put on a mapping that had neither in the snapshot (no call takes them off again); anonymous memory
// mapped anew in the very same place with the other choice of MAP_NORESERVE; and mlockall(MCL_FUTURE), which the kernel
// tells nobody. Locks are counted in VmLck: where a task holds any, now or then, smaps is read.
#pragma once

#include <bitset>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "capture/holds.h"
#include "model/memory.h"
#include "parasite/session.h"

namespace relive::capture {

// Parsers of the texts of /proc/PID/maps and /proc/PID/smaps. Any text is answered by mappings or by an error
// (ErrorKind::system naming the line). The mappings are ascending, not overlapping, page-aligned. parse_maps leaves the
// marks as mmap(2) sets them for want of anything better: may_write for private and for writable mappings.
Result<std::vector<model::Mapping>> parse_maps(std::string_view maps_text);
Result<std::vector<model::Mapping>> parse_smaps(std::string_view smaps_text);

// What a line's name, inode and sharing say about where its contents come from.
model::MappingSource classify(std::string_view name, std::uint64_t inode, bool shared);

// Fields 26 to 28 and 45 to 51 of /proc/PID/stat; brk is not among them and left 0.
Result<model::MemoryLayout> parse_layout(std::string_view stat_text);

// `mappings` without `ranges` (relive's own): a mapping that lies partly in them is cut.
std::vector<model::Mapping> without(std::vector<model::Mapping> mappings, const std::vector<AddressRange>& ranges);

// `mappings` (read without marks), cut at the borders of `before`; each piece whose object is the same as before takes
// its marks and protection key from there.
std::vector<model::Mapping> carry_marks(const std::vector<model::Mapping>& mappings,
                                        const std::vector<model::Mapping>& before);

// The text of /proc/PID/maps. Byte-equal texts: nothing was mapped, unmapped, protected, moved or split in between.
Result<std::string> read_maps(parasite::Visit& visit);

// Everything, marks too.
Result<model::Memory> read_memory(parasite::Visit& visit);

// Everything but the marks, which are carried over from `before`. `maps_text` is what read_maps() has just given; where
// it equals `before_text` (the text that belongs to `before`) it is not parsed.
Result<model::Memory> read_memory_again(parasite::Visit& visit, const model::Memory& before,
                                        std::string_view before_text, std::string_view maps_text);

// The protection keys that the task can set: 0 and those that it has allocated; bit N for key N. The key of
// execute-only memory is none of them: the kernel gives it by itself where PROT_EXEC alone is asked for
// (execute_only_pkey() and mm_pkey_is_allocated() in arch/x86). Only 0 where the processor has no keys. Changes
// nothing.
Result<std::bitset<16>> settable_keys(parasite::Visit& visit);

// Takes references of our own to the files that `memory` maps, one per file (model::hold_key): through
// /proc/PID/map_files where this user may (CAP_CHECKPOINT_RESTORE), else by path, taken only if it is the very file,
// else from the task's own descriptors. What cannot be held is left out: it is refused by name when a rollback needs
// it.
Result<void> hold_mapped_files(parasite::Visit& visit, const model::Memory& memory, Holds& holds);

// Opens the file that `mapping` of the task maps, by its path as the task sees it. ErrorKind::refused where the path
// now names another file, or none.
Result<UniqueFd> open_mapped_file(model::Pid pid, const model::Mapping& mapping);

}  // namespace relive::capture
