// Open files and descriptors: files.img, fdinfo-N.img and what goes with them.
//
// One function a kind and direction, each in the file of its family: named_files.cpp, events.cpp, sockets.cpp,
// terminals.cpp. Writing gives ids; reading resolves them. What CRIU has no field for goes into a pb::ExtraFile.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "image/image.h"
#include "image/parts.h"

namespace relive::image {

// pb::File.type and pb::Descriptor.type.
enum class FileType : std::uint8_t {
  undefined = 0,
  regular = 1,
  pipe = 2,
  fifo = 3,
  inet_socket = 4,
  unix_socket = 5,
  event_counter = 6,
  epoll = 7,
  inotify = 8,
  signal_file = 9,
  packet_socket = 10,
  terminal = 11,
  fanotify = 12,
  netlink_socket = 13,
  name_space = 14,
  tunnel = 15,
  external = 16,
  timer_file = 17,
  memory_file = 18,
  bpf_map = 19,
  process_handle = 20,
};
// "pipe", "netlink socket"; "file of type 77".
[[nodiscard]] std::string type_name(std::uint32_t type);

// Where the bytes of a file without a name are to be had, when an image is written.
struct Unnamed {
  std::uint32_t ghost = 0;   // id of the ghost-file, or 0 ...
  std::uint32_t object = 0;  // ... number of the pagemap-shmem
  std::size_t task = 0;      // index in Image::tasks
  bool mapped = false;       // of a mapping (`address`), else of an open file (`index`)
  std::uint64_t address = 0;
  std::size_t index = 0;
};

// Writing: collects entries and hands out ids.
struct FileWriting {
  explicit FileWriting(Parts& into) : parts(into) {}
  Parts& parts;
  std::vector<Unnamed> unnamed;  // whose bytes the writer has to find
  std::size_t task = 0;          // at work

  std::uint32_t new_file() { return next_file_++; }
  // Is it the first that is told of this file?
  bool first_told(std::uint32_t id) { return told_.insert(id).second; }
  void reserve_file(std::uint32_t id) { next_file_ = std::max(next_file_, id + 1); }
  std::uint32_t new_object() { return next_object_++; }
  // The id of a file that is named only by what maps it, stands in it, or executes it.
  std::uint32_t named(const std::string& path, std::uint32_t flags, std::uint64_t address);
  // One inode of a memfd or a deleted file, however many open files and mappings lead to it.
  struct Inode {
    model::FileIdentity identity;
    auto operator<=>(const Inode&) const = default;
  };
  std::uint64_t memory_inode(model::FileIdentity identity, const std::string& link, const model::MemoryFile& memory,
                             Unnamed where);
  // The file `id` has no name any more: makes a ghost of it.
  void make_ghost(std::uint32_t id, model::FileIdentity identity, Unnamed where);

 private:
  std::uint32_t next_file_ = 1;
  std::set<std::uint32_t> told_;
  std::uint32_t next_object_ = 1;
  std::uint32_t next_ghost_ = 1;
  std::map<std::pair<std::string, std::uint32_t>, std::uint32_t> named_;
  std::map<model::FileIdentity, std::uint32_t> ghosts_;
  std::map<model::FileIdentity, std::uint64_t> inodes_;
};

// Reading: entries by id, and where findings go.
struct FileReading {
  const Parts& parts;
  Findings& findings;
  Budget& budget;
  std::map<std::uint32_t, const pb::Remap*> remaps;                                 // by id of the file
  std::map<std::pair<std::int32_t, std::int32_t>, std::vector<std::size_t>> locks;  // by pid and descriptor
  std::map<std::uint32_t, const pb::ExtraFile*> extras;  // by id: what the first task tells that has it
  void damaged(std::uint32_t file, std::string what) const;
  void unsupported(std::uint32_t file, std::string what) const;
  // The path of a file as the model writes it: " (deleted)" behind it when it has no name any more.
  [[nodiscard]] std::string path_of(const pb::RegularFile& file) const;
};

void owner_to(const model::OpenFile& file, pb::Owner& owner);
void owner_from(const pb::Owner& owner, model::OpenFile& file);
// Status flags without what the kernel sets for itself.
[[nodiscard]] std::uint32_t flags_to(const model::OpenFile& file);

// All descriptors of one task. Fills file_ids where they are empty.
Result<void> table_to(ImagedTask& task, FileWriting& out, pb::ExtraTask& extra);
// `table` may be missing: a task without descriptors.
void table_from(std::uint32_t table, const pb::ExtraTask* extra, const FileReading& in, ImagedTask& task);

// By family. `id` is the file's, `extra` what CRIU has no field for (when reading it may be null).
namespace kinds {
using File = pb::File;
void regular_to(const model::OpenFile&, const model::RegularFile&, std::size_t index, FileWriting&, File&,
                pb::ExtraFile&);
void device_to(const model::OpenFile&, const model::DeviceFile&, File&, pb::ExtraFile&);
void pipe_to(const model::OpenFile&, const model::PipeEnd&, FileWriting&, File&, pb::ExtraFile&);
void socket_to(const model::OpenFile&, const model::Socket&, FileWriting&, File&, pb::ExtraFile&);
void terminal_to(const model::OpenFile&, const model::Terminal&, const model::Process&, FileWriting&, File&,
                 pb::ExtraFile&);
void event_counter_to(const model::OpenFile&, const model::EventCounter&, File&, pb::ExtraFile&);
void epoll_to(const model::OpenFile&, const model::EpollSet&, File&, pb::ExtraFile&);
void timer_to(const model::OpenFile&, const model::TimerFile&, File&, pb::ExtraFile&);
void signal_file_to(const model::OpenFile&, const model::SignalFile&, File&, pb::ExtraFile&);
void inotify_to(const model::OpenFile&, const model::InotifySet&, File&, pb::ExtraFile&);
void process_handle_to(const model::OpenFile&, const model::ProcessHandle&, File&, pb::ExtraFile&);

model::FileObject regular_from(const File&, const pb::ExtraFile*, const FileReading&, model::OpenFile&);
model::FileObject memory_file_from(const File&, const pb::ExtraFile*, const FileReading&, model::OpenFile&);
model::FileObject pipe_from(const File&, const pb::ExtraFile*, const FileReading&, model::OpenFile&);
model::FileObject unix_socket_from(const File&, const pb::ExtraFile*, const FileReading&, model::OpenFile&);
model::FileObject inet_socket_from(const File&, const pb::ExtraFile*, const FileReading&, model::OpenFile&);
model::FileObject netlink_socket_from(const File&, const pb::ExtraFile*, const FileReading&, model::OpenFile&);
model::FileObject packet_socket_from(const File&, const pb::ExtraFile*, const FileReading&, model::OpenFile&);
model::FileObject terminal_from(const File&, const pb::ExtraFile*, const FileReading&, model::OpenFile&);
model::FileObject event_counter_from(const File&, const pb::ExtraFile*, const FileReading&, model::OpenFile&);
model::FileObject epoll_from(const File&, const pb::ExtraFile*, const FileReading&, model::OpenFile&);
model::FileObject timer_from(const File&, const pb::ExtraFile*, const FileReading&, model::OpenFile&);
model::FileObject signal_file_from(const File&, const pb::ExtraFile*, const FileReading&, model::OpenFile&);
model::FileObject inotify_from(const File&, const pb::ExtraFile*, const FileReading&, model::OpenFile&);
model::FileObject process_handle_from(const File&, const pb::ExtraFile*, const FileReading&, model::OpenFile&);
}  // namespace kinds

}  // namespace relive::image
