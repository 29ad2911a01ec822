#include "image/read.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "image/consistency.h"
#include "image/files.h"
#include "image/memory.h"
#include "image/parts.h"
#include "image/threads.h"

namespace relive::image {

namespace {

constexpr std::uint32_t kOldestVersion = 1;
constexpr std::uint32_t kNewestVersion = 2;
constexpr std::size_t kNamedInError = 3;
constexpr std::uint32_t kExtraVersion = 1;

// The pages of an object, moved to the addresses where it is mapped.
void add_shared(PageRuns& into, const model::Mapping& mapping, const PageRuns& object) {
  for (PageRun run : object) {
    run.address = run.address - mapping.offset + mapping.range.begin;
    into.push_back(run);
  }
}

class Reading {
 public:
  Reading(const ImageSource& source, Findings& findings) : source_(source), findings_(findings) {}

  Image read() {
    parts_ = read_parts(source_, findings_, budget_);
    const pb::Inventory& inventory = parts_.inventory;
    if (inventory.version() < kOldestVersion || inventory.version() > kNewestVersion) {
      findings_.unsupported(file_name(FileKind::inventory), 0,
                            fmt::format("version {} is not known", inventory.version()));
      return std::move(image_);
    }
    check_tree(parts_, findings_);
    check_references(parts_, findings_);
    FileReading files{parts_, findings_, budget_, {}, {}, {}};
    for (const pb::TreeEntry& entry : parts_.tree) {
      const auto extra = parts_.extras.find(entry.pid());
      if (extra == parts_.extras.end() || extra->second.version() != kExtraVersion) continue;
      for (const pb::ExtraFile& file : extra->second.files()) files.extras.emplace(file.id(), &file);
    }
    for (std::size_t i = 0; i < parts_.locks.size(); ++i)
      files.locks[{parts_.locks[i].pid(), parts_.locks[i].fd()}].push_back(i);
    for (const pb::Remap& remap : parts_.remaps) files.remaps.emplace(remap.file(), &remap);
    ghosts();
    for (const auto& [id, file] : parts_.files) {
      if (!file.has_regular() || files.remaps.contains(id) || file.regular().external()) continue;
      const pb::RegularFile& regular = file.regular();
      image_.named_files.push_back(
          {id, regular.path(), regular.mode(), regular.has_size() ? std::optional(regular.size()) : std::nullopt});
    }
    for (const pb::TreeEntry& entry : parts_.tree) task(entry, files);
    std::set<std::uint32_t> seen;
    for (ImagedTask& task : image_.tasks) {
      check_task(task, seen, findings_);
      seen.insert(task.file_ids.begin(), task.file_ids.end());
    }
    image_.ours = !parts_.extras.empty();
    return std::move(image_);
  }

 private:
  void ghosts() {
    for (const pb::Remap& remap : parts_.remaps) {
      if (remap.type() != 1) continue;
      EntryReader reader(source_, FileKind::ghost, remap.remap(), findings_, budget_);
      if (!reader.present()) {
        findings_.damaged(reader.name(), std::nullopt, fmt::format("is missing; file {} needs it", remap.file()));
        continue;
      }
      pb::Ghost entry;
      if (!reader.next(entry)) continue;
      Ghost ghost{.mode = entry.mode(), .bytes = 0, .size = entry.size(), .file = 0, .pieces = {}};
      const auto add = [&](std::uint64_t offset, std::uint64_t bytes) {
        ghost.pieces.push_back({reader.position(), offset, bytes});
        ghost.bytes += bytes;
        ghost.size = std::max(ghost.size, offset + bytes);
        reader.skip(bytes);
      };
      if (entry.chunks()) {
        pb::GhostChunk chunk;
        while (reader.next(chunk)) {
          if (chunk.length() > reader.rest() || chunk.offset() >> 62 != 0) {
            reader.damaged(fmt::format("a chunk of {} bytes at {:#x}; the file has {} more", chunk.length(),
                                       chunk.offset(), reader.rest()));
            break;
          }
          if (!budget_.take_model(sizeof(Ghost::Piece))) {
            reader.damaged("has more chunks than relive takes in");
            break;
          }
          add(chunk.offset(), chunk.length());
        }
      } else if (reader.rest() != 0) {
        add(0, reader.rest());
      }
      if (ghost.size >> 62 != 0) reader.damaged(fmt::format("a deleted file of {:#x} bytes", ghost.size));
      ghost.file = image_.page_files.add(reader.take_file());
      image_.ghosts[remap.file()] = std::move(ghost);
    }
  }

  // Pages of a shared object, read once.
  const PageRuns& object(std::uint32_t number) {
    const auto known = image_.objects.find(number);
    if (known != image_.objects.end()) return known->second.pages;
    SharedObject& made = image_.objects[number];
    made.pages = read_pages(source_, FileKind::shared_pagemap, number, image_.page_files, findings_, budget_);
    return made.pages;
  }

  void namespaces(const pb::ObjectIds& ids, std::uint32_t pid) {
    const pb::ObjectIds& root = parts_.inventory.root_ids();
    const auto other = [&](const char* what, bool there, std::uint32_t id, std::uint32_t roots) {
      if (there && id != roots)
        findings_.unsupported(file_name(FileKind::ids, pid), 0,
                              fmt::format("lived in a {} namespace of its own", what));
    };
    other("pid", ids.has_pid_namespace(), ids.pid_namespace(), root.pid_namespace());
    other("network", ids.has_net_namespace(), ids.net_namespace(), root.net_namespace());
    other("ipc", ids.has_ipc_namespace(), ids.ipc_namespace(), root.ipc_namespace());
    other("uts", ids.has_uts_namespace(), ids.uts_namespace(), root.uts_namespace());
    other("mount", ids.has_mount_namespace(), ids.mount_namespace(), root.mount_namespace());
    other("user", ids.has_user_namespace(), ids.user_namespace(), root.user_namespace());
    other("cgroup", ids.has_cgroup_namespace(), ids.cgroup_namespace(), root.cgroup_namespace());
    other("time", ids.has_time_namespace(), ids.time_namespace(), root.time_namespace());
  }

  void threads(const pb::TreeEntry& entry, const pb::TaskPart& leader, const pb::ExtraTask* extra, ImagedTask& task) {
    std::map<std::uint32_t, const pb::ExtraThread*> extras;
    if (extra != nullptr)
      for (const pb::ExtraThread& more : extra->threads()) extras.emplace(more.tid(), &more);
    std::vector<std::uint32_t> tids(entry.threads().begin(), entry.threads().end());
    std::ranges::stable_sort(tids, {}, [&](std::uint32_t tid) { return std::pair(tid != entry.pid(), tid); });
    for (const std::uint32_t tid : tids) {
      const auto core = parts_.cores.find(tid);
      if (core == parts_.cores.end()) continue;  // is a finding already
      const auto more = extras.find(tid);
      task.task.threads.push_back(thread_from(tid, core->second, tid == entry.pid() ? &leader : nullptr,
                                              more == extras.end() ? nullptr : more->second,
                                              file_name(FileKind::core, tid), findings_));
    }
  }

  void fs(std::uint32_t pid, const pb::ExtraTask* extra, const FileReading& files, ImagedTask& task) {
    const auto at = parts_.fs.find(pid);
    if (at == parts_.fs.end()) return;
    const std::string name = file_name(FileKind::fs, pid);
    const auto directory = [&](std::uint32_t id, const char* what) {
      model::Directory found;
      const auto file = parts_.files.find(id);
      if (file == parts_.files.end() || !file->second.has_regular())
        findings_.damaged(name, 0,
                          fmt::format("{} is file {}, which is not in {}", what, id, file_name(FileKind::files)));
      else
        found.path = files.path_of(file->second.regular());
      return found;
    };
    model::Process& process = task.task.process;
    process.cwd = directory(at->second.cwd(), "the current directory");
    process.root = directory(at->second.root(), "the root");
    process.umask = at->second.umask();
    if ((process.umask & ~0777U) != 0) findings_.damaged(name, 0, fmt::format("umask {:#o}", process.umask));
    if (extra == nullptr) return;
    process.cwd.device = extra->cwd_device();
    process.cwd.inode = extra->cwd_inode();
    process.root.device = extra->root_device();
    process.root.inode = extra->root_inode();
  }

  void memory(std::uint32_t pid, const pb::ExtraTask* extra, const FileReading& files, ImagedTask& task) {
    const auto at = parts_.memories.find(pid);
    if (at == parts_.memories.end()) return;
    const std::vector<ObjectUse> uses = memory_from(at->second, extra, files, task);
    const auto& all = task.task.memory.mappings;
    std::vector<bool> told(all.size(), false);
    for (const ObjectUse& use : uses) {
      told[use.mapping] = true;
      task.mapped_objects[all[use.mapping].range.begin] = use.object;
    }
    for (std::size_t i = 0; i < all.size(); ++i)
      if (!told[i] && all[i].shared &&
          (all[i].source == model::MappingSource::file || all[i].source == model::MappingSource::deleted_file))
        task.untold.push_back(all[i].range);
    // Of tasks that share their memory, one has the pages.
    if (task.shared.memory != 0 && !memories_.insert(task.shared.memory).second) return;
    PageRuns pages = read_pages(source_, FileKind::pagemap, pid, image_.page_files, findings_, budget_);
    if (!uses.empty()) {
      PageRuns own = std::move(pages);
      pages.clear();
      // A shared mapping has the pages of its object, and none of its own.
      std::uint64_t position = 0;
      const auto& mappings = task.task.memory.mappings;
      for (const ObjectUse& use : uses) {
        const model::Mapping& mapping = mappings[use.mapping];
        for (const PageRun& run : within(own, {position, mapping.range.begin})) pages.push_back(run);
        const PageRuns mine = within(own, mapping.range);
        if (mapping.shared) {
          if (!mine.empty())
            findings_.damaged(file_name(FileKind::pagemap, pid), std::nullopt,
                              fmt::format("has pages of the shared mapping at {:x}", mapping.range.begin));
          const PageRuns shared = within(object(use.object), {mapping.offset, mapping.offset + mapping.range.size()});
          if (!budget_.take_model(shared.size() * sizeof(PageRun))) {
            findings_.damaged(file_name(FileKind::mm, pid), 0, "maps shared memory too often");
            return;
          }
          add_shared(pages, mapping, shared);
        } else {
          // Of a memfd that is mapped privately, its own copies; the others are the memfd's.
          pages.insert(pages.end(), mine.begin(), mine.end());
        }
        position = mapping.range.end;
      }
      constexpr std::uint64_t kEnd = std::uint64_t{1} << 63;
      for (const PageRun& run : within(own, {position, kEnd})) pages.push_back(run);
    }
    // The kernel's own mappings are nobody's to fill.
    for (const model::Mapping& mapping : task.task.memory.mappings) {
      if (mapping.source != model::MappingSource::kernel) continue;
      if (mapping.name == "[vdso]") task.vdso = within(pages, mapping.range);
      std::erase_if(pages, [&](const PageRun& run) {
        return mapping.range.contains(run.address) && run.range().end <= mapping.range.end;
      });
    }
    task.pages = std::move(pages);
  }

  void task(const pb::TreeEntry& entry, const FileReading& files) {
    const std::uint32_t pid = entry.pid();
    const auto core = parts_.cores.find(pid);
    if (core == parts_.cores.end()) return;
    ImagedTask task;
    task.task.pid = {static_cast<pid_t>(pid)};
    model::Process& process = task.task.process;
    process.parent = static_cast<std::int32_t>(entry.parent());
    process.group = static_cast<std::int32_t>(entry.group());
    process.session = static_cast<std::int32_t>(entry.session());
    const std::string name = file_name(FileKind::core, pid);
    if (!core->second.has_task()) {
      findings_.damaged(name, 0, "has no task");
      return;
    }
    const auto found = parts_.extras.find(pid);
    const pb::ExtraTask* extra = found == parts_.extras.end() ? nullptr : &found->second;
    if (extra != nullptr && extra->version() != kExtraVersion) {
      findings_.unsupported(file_name(FileKind::extra, pid), 0,
                            fmt::format("version {} is not known", extra->version()));
      extra = nullptr;
    }
    process_from(core->second.task(), extra, name, task, findings_);
    if (extra != nullptr && entry.parent() == 0) process.parent = static_cast<std::int32_t>(extra->parent());
    switch (task.state) {
      case TaskState::running:
      case TaskState::stopped: {
        const auto ids = parts_.ids.find(pid);
        if (ids != parts_.ids.end()) {
          task.shared = {ids->second.memory(), ids->second.files(), ids->second.fs(), ids->second.signal_actions()};
          namespaces(ids->second, pid);
        }
        threads(entry, core->second.task(), extra, task);
        if (task.task.threads.empty())
          findings_.damaged(file_name(FileKind::pstree), std::nullopt, fmt::format("task {} has no thread", pid));
        fs(pid, extra, files, task);
        table_from(ids != parts_.ids.end() && parts_.inventory.fdinfo_per_id() ? task.shared.files : pid, extra, files,
                   task);
        memory(pid, extra, files, task);
        memory_files(task);
        break;
      }
      case TaskState::dead:
      case TaskState::zombie:
        break;
      default:
        findings_.damaged(name, 0, fmt::format("state {}", static_cast<unsigned>(task.state)));
    }
    image_.tasks.push_back(std::move(task));
  }

  // Contents of open memfds.
  void memory_files(ImagedTask& task) {
    for (std::size_t i = 0; i < task.file_ids.size(); ++i) {
      const auto file = parts_.files.find(task.file_ids[i]);
      if (file == parts_.files.end() || !file->second.has_memory_file()) continue;
      const auto inode = parts_.memory_inodes.find(file->second.memory_file().inode_id());
      if (inode == parts_.memory_inodes.end()) continue;
      const std::uint32_t number = inode->second.object();
      const PageRuns& pages = object(number);
      if (!pages.empty() && pages.back().range().end > page_ceil(inode->second.size()))
        findings_.damaged(file_name(FileKind::shared_pagemap, number), std::nullopt,
                          fmt::format("has pages up to {:#x} of a memfd of {} bytes", pages.back().range().end,
                                      inode->second.size()));
      task.memory_files[i] = number;
    }
  }

  const ImageSource& source_;
  Findings& findings_;
  Budget budget_;
  Parts parts_;
  Image image_;
  std::set<std::uint32_t> memories_;  // whose pages were read
};

}  // namespace

Image read_image(const ImageSource& source, Findings& findings) { return Reading(source, findings).read(); }

Result<Image> read_whole_image(const ImageSource& source) {
  Findings findings;
  Image image = read_image(source, findings);
  if (!findings.any_damage()) return image;
  std::string all;
  std::size_t named = 0;
  for (const Finding& finding : findings.all()) {
    if (finding.severity != Severity::damaged || named == kNamedInError) continue;
    all += (all.empty() ? "" : "; ") + text(finding);
    ++named;
  }
  return fail(ErrorKind::refused, "the image is damaged: " + all,
              "relive check names everything that is wrong with it");
}

}  // namespace relive::image
