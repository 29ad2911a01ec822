#include "rollback/image_out.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <utility>

#include "base/clock.h"
#include "base/fault.h"
#include "rollback/protocol.h"
#include "task/procfs.h"

namespace relive::rollback {

namespace {

class SnapshotContents : public image::Contents {
 public:
  explicit SnapshotContents(const SnapshotParts& parts) : parts_(parts) {}

  [[nodiscard]] std::vector<Pages> pages(std::size_t) const override {
    std::vector<Pages> found;
    for (const tracking::PageRun& run : parts_.snapshot->pages.runs())
      found.push_back({run.address, parts_.store->bytes(run.slot, run.pages)});
    add_vdso(found);
    return found;
  }

  [[nodiscard]] int open_file(std::size_t, std::size_t index) const override {
    const capture::Holds& holds = parts_.snapshot->holds;
    for (const auto* held : {&holds.contents, &holds.open_files, &holds.references})
      if (const auto at = held->find(index); at != held->end() && at->second) return opened_anew(at->second.get());
    return -1;
  }

  [[nodiscard]] int mapped_file(std::size_t, std::uint64_t begin) const override {
    const capture::Holds& holds = parts_.snapshot->holds;
    // One hold stands for all mappings of a file (model::hold_key).
    for (const model::Mapping& mapping : parts_.snapshot->task.memory.mappings) {
      if (mapping.range.begin != begin) continue;
      const auto at = holds.mapped_files.find(model::hold_key(parts_.snapshot->task.memory, mapping));
      if (at != holds.mapped_files.end() && at->second) return opened_anew(at->second.get());
    }
    return -1;
  }

 private:
  // Every 64-bit program of a kernel has the same, and so have we.
  void add_vdso(std::vector<Pages>& pages) const {
    const auto* const ours = reinterpret_cast<const std::byte*>(::getauxval(AT_SYSINFO_EHDR));
    for (const model::Mapping& mapping : parts_.snapshot->task.memory.mappings) {
      if (mapping.name != "[vdso]" || ours == nullptr) continue;
      const auto at = std::ranges::lower_bound(pages, mapping.range.begin, {}, &Pages::address);
      pages.insert(at, {mapping.range.begin, {ours, mapping.range.size()}});
    }
  }

  // What is held is the task's own open file, position and locks included: it is left alone.
  int opened_anew(int held) const {
    const std::string link = fmt::format("/proc/self/fd/{}", held);
    return opened_.emplace_back(::open(link.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)).get();
  }

  SnapshotParts parts_;
  mutable std::vector<UniqueFd> opened_;
};

std::vector<std::uint64_t> auxiliary_vector(model::Pid pid) {
  const auto text = task::read_proc(pid, "auxv");
  if (!text) return {};
  std::vector<std::uint64_t> words(text->size() / sizeof(std::uint64_t));
  std::memcpy(words.data(), text->data(), words.size() * sizeof(std::uint64_t));
  while (words.size() >= 2 && words[words.size() - 1] == 0 && words[words.size() - 2] == 0)
    words.resize(words.size() - 2);
  return words;
}

// Closes everything but stderr, the connection and what the snapshot holds: a copy of the tracker's descriptor would
// keep the task tracked after a drop.
void close_others(const Snapshot& snapshot, int connection) {
  std::vector<unsigned> kept{2, static_cast<unsigned>(connection)};
  const auto keep = [&](const auto& held) {
    for (const auto& [key, fd] : held)
      if (fd) kept.push_back(static_cast<unsigned>(fd.get()));
  };
  keep(snapshot.holds.contents);
  keep(snapshot.holds.open_files);
  keep(snapshot.holds.references);
  keep(snapshot.holds.mapped_files);
  std::ranges::sort(kept);
  unsigned next = 0;
  for (const unsigned fd : kept) {
    if (fd > next) ::syscall(SYS_close_range, next, fd - 1, 0);
    next = std::max(next, fd + 1);
  }
  ::syscall(SYS_close_range, next, ~0U, 0);
}

// The body of the child: writes, answers, ends.
[[noreturn]] void write_and_answer(const SnapshotParts& parts, const std::string& directory, int connection,
                                   const std::string& fault) {
  ::prctl(PR_SET_NAME, "relive-image");
  close_others(*parts.snapshot, connection);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  const std::uint64_t began = now_ns();
  if (const auto plan = FaultPlan::parse(fault)) arm_faults(*plan);
  const auto tell = [&](std::uint64_t done, std::uint64_t all) -> Result<void> {
    // A client that has gone away does not want the image any more.
    return send_frame(connection, encode(Result<Answer>(ImageProgress{done, all})));
  };
  const auto report = write_snapshot(parts, directory, tell);
  Result<Answer> answer = std::unexpected(Error{});
  if (report)
    answer = ImageReport{directory, report->pages, report->bytes, (now_ns() - began) / 1000, faults_passed()};
  else
    answer = std::unexpected(report.error());
  const auto sent = send_frame(connection, encode(answer));
  ::_exit(sent ? 0 : 1);
}

}  // namespace

Result<image::WriteReport> write_snapshot(const SnapshotParts& parts, const std::string& directory,
                                          const image::Progress& progress) {
  image::ImagedTask task;
  task.task = parts.snapshot->task;
  task.auxiliary_vector = auxiliary_vector(task.task.pid);
  std::vector<image::ImagedTask> tasks;
  tasks.push_back(std::move(task));
  return image::write_image(directory, std::move(tasks), SnapshotContents(parts), progress);
}

Result<ImageWriter> start_image_writer(const SnapshotParts& parts, const std::string& directory, int connection,
                                       const std::string& fault) {
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("fork", "to write an image");
  if (child == 0) write_and_answer(parts, directory, connection, fault);
  ImageWriter writer;
  writer.pid = child;
  writer.pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
  return writer;
}

}  // namespace relive::rollback
