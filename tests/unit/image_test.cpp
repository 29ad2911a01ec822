// Images: what is written is read again as it was; what is broken is named, and harms nobody.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <random>

#include "base/fault.h"
#include "image/elf_core.h"
#include "image/magic.h"
#include "image/parts.h"
#include "image/read.h"
#include "unit/image_sample.h"

namespace relive {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

std::vector<std::string> texts(const image::Findings& findings) {
  std::vector<std::string> all;
  for (const image::Finding& finding : findings.all()) all.push_back(text(finding));
  return all;
}

struct Read {
  image::Findings findings;
  image::Image image;
};

Read read(const sample::Files& files) {
  Read result;
  const auto source = image::in_memory(files);
  result.image = image::read_image(*source, result.findings);
  return result;
}

std::vector<std::byte> page_of(const image::Image& image, const image::PageRuns& pages, std::uint64_t address) {
  const image::PageRuns found = image::within(pages, {address, address + kPageSize});
  if (found.empty()) return {};
  std::vector<std::byte> bytes(kPageSize);
  EXPECT_TRUE(image.page_files.read(found[0], 0, bytes).has_value());
  return bytes;
}

// One file of an image, its entries re-made by `change`.
template <class Message>
sample::Files edited(image::FileKind kind, std::uint64_t number, const std::function<void(Message&)>& change) {
  sample::Files files = sample::files();
  auto& bytes = files[image::file_name(kind, number)];
  const std::size_t begin = kind == image::FileKind::inventory ? 4 : 8;
  std::string out(reinterpret_cast<const char*>(bytes.data()), begin);
  for (std::size_t at = begin; at < bytes.size();) {
    std::uint32_t size = 0;
    std::memcpy(&size, bytes.data() + at, sizeof size);
    Message message;
    EXPECT_TRUE(message.ParseFromArray(bytes.data() + at + 4, static_cast<int>(size)));
    change(message);
    const std::string made = message.SerializePartialAsString();
    const auto length = static_cast<std::uint32_t>(made.size());
    out.append(reinterpret_cast<const char*>(&length), sizeof length);
    out += made;
    at += 4 + size;
  }
  bytes = sample::bytes(out);
  return files;
}

TEST(Image, NamesOfFilesAreTakenApart) {
  for (const image::FileFormat& format : image::formats()) {
    const std::uint64_t number = format.number == image::FileFormat::Number::none ? 0 : 0x1f;
    const auto parsed = image::parse_name(image::file_name(format.kind, number));
    ASSERT_TRUE(parsed.has_value()) << format.stem;
    EXPECT_EQ(parsed->kind, format.kind);
    EXPECT_EQ(parsed->number, number);
  }
  for (const char* name :
       {"core-.img", "core-01.img", "core-1", "core-1x.img", "fdinfo-99999999999999999999.img", ".img"})
    EXPECT_FALSE(image::parse_name(name).has_value()) << name;
}

TEST(Image, WhatIsWrittenIsReadAgain) {
  const sample::Files files = sample::files();
  const auto [findings, image] = read(files);
  EXPECT_THAT(texts(findings), ::testing::IsEmpty());
  ASSERT_EQ(image.tasks.size(), 1U);
  EXPECT_TRUE(image.ours);
  const model::Task wanted = sample::task();
  const model::Task& got = image.tasks[0].task;
  EXPECT_EQ(got.pid, wanted.pid);
  EXPECT_EQ(got.start_time, wanted.start_time);
  EXPECT_EQ(image.tasks[0].auxiliary_vector, sample::imaged().auxiliary_vector);

  ASSERT_EQ(got.threads.size(), wanted.threads.size());
  for (std::size_t i = 0; i < got.threads.size(); ++i) {
    const model::Thread& a = got.threads[i];
    const model::Thread& b = wanted.threads[i];
    EXPECT_EQ(a.tid, b.tid);
    EXPECT_EQ(std::memcmp(&a.registers, &b.registers, sizeof a.registers), 0);
    EXPECT_EQ(a.xstate, b.xstate);
    EXPECT_EQ(a.signal_mask, b.signal_mask);
    EXPECT_EQ(a.pending, b.pending);
    EXPECT_EQ(a.robust_list, b.robust_list);
    EXPECT_EQ(a.rseq, b.rseq);
    EXPECT_EQ(a.alternate_stack, b.alternate_stack);
    EXPECT_EQ(a.clear_child_tid, b.clear_child_tid);
    EXPECT_EQ(a.timer_slack_ns, b.timer_slack_ns);
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.scheduling, b.scheduling);
    EXPECT_EQ(a.affinity, b.affinity);
    EXPECT_EQ(a.io_priority, b.io_priority);
    EXPECT_EQ(a.credentials, b.credentials);
  }
  EXPECT_EQ(got.process, wanted.process);
  EXPECT_EQ(got.memory.layout, wanted.memory.layout);
  EXPECT_EQ(got.memory.locked_bytes, wanted.memory.locked_bytes);
  ASSERT_EQ(got.memory.mappings.size(), wanted.memory.mappings.size());
  for (std::size_t i = 0; i < got.memory.mappings.size(); ++i)
    EXPECT_EQ(got.memory.mappings[i], wanted.memory.mappings[i])
        << mapping_text(got.memory.mappings[i]) << " / " << mapping_text(wanted.memory.mappings[i]);

  const model::DescriptorTable& table = image.tasks[0].descriptors;
  const model::DescriptorTable wanted_table = sample::descriptors();
  ASSERT_EQ(table.descriptors.size(), wanted_table.descriptors.size());
  for (const model::Descriptor& descriptor : wanted_table.descriptors) {
    const auto at = std::ranges::find(table.descriptors, descriptor.fd, &model::Descriptor::fd);
    ASSERT_NE(at, table.descriptors.end()) << descriptor.fd.value;
    EXPECT_EQ(at->close_on_exec, descriptor.close_on_exec);
    EXPECT_EQ(table.open_files[at->open_file], wanted_table.open_files[descriptor.open_file])
        << describe(wanted_table.open_files[descriptor.open_file]);
  }
}

TEST(Image, PagesAreWhereTheyWere) {
  const sample::Files files = sample::files();
  const auto [findings, image] = read(files);
  ASSERT_EQ(image.tasks.size(), 1U);
  const image::PageRuns& pages = image.tasks[0].pages;
  EXPECT_EQ(image::count_pages(pages), 5U);
  for (const std::uint64_t address : {sample::kHeap, sample::kHeap + kPageSize, sample::kHeap + 4 * kPageSize,
                                      sample::kShared + kPageSize, sample::kSharedFile})
    EXPECT_EQ(page_of(image, pages, address), sample::Contents::page(address)) << fmt::format("{:x}", address);
  EXPECT_TRUE(page_of(image, pages, sample::kHeap + 2 * kPageSize).empty());
}

TEST(Image, CriusFilesAloneAreEnough) {
  sample::Files files = sample::files();
  std::erase_if(files, [](const auto& file) { return file.first.starts_with("relive-"); });
  const auto [findings, image] = read(files);
  EXPECT_FALSE(findings.any_damage()) << ::testing::PrintToString(texts(findings));
  ASSERT_EQ(image.tasks.size(), 1U);
  EXPECT_FALSE(image.ours);
  EXPECT_EQ(image.tasks[0].task.threads[0].registers.rip, sample::thread(100).registers.rip);
  EXPECT_EQ(image.tasks[0].task.threads[0].xstate, sample::thread(100).xstate);
  const auto& open = image.tasks[0].descriptors.open_files;
  EXPECT_EQ(open.size(), sample::one_of_each().size() - 1);  // CRIU knows no message queues
}

TEST(Image, WhatCriuWroteIsRead) {
  std::ifstream in(RELIVE_SOURCE_DIR "/tests/fuzz/seeds/criu", std::ios::binary);
  const std::string packed((std::istreambuf_iterator<char>(in)), {});
  sample::Files files = sample::unpack(std::as_bytes(std::span(packed)));
  files["pages-1.img"].resize(1 << 20);  // the seed has two of them
  const auto [findings, image] = read(files);
  EXPECT_FALSE(findings.any_damage()) << ::testing::PrintToString(texts(findings));
  ASSERT_EQ(image.tasks.size(), 1U);
  EXPECT_FALSE(image.ours);
  const model::Task& task = image.tasks[0].task;
  ASSERT_EQ(task.threads.size(), 1U);
  EXPECT_EQ(task.threads[0].name, "sleep");
  EXPECT_EQ(task.process.executable, "/usr/bin/sleep");
  EXPECT_GE(image.tasks[0].descriptors.descriptors.size(), 3U);
  EXPECT_GT(image::count_pages(image.tasks[0].pages), 10U);
  EXPECT_FALSE(image.tasks[0].vdso.empty());
}

TEST(Image, AnImageOfSeveralTasks) {
  const sample::Scratch scratch;
  std::vector<image::ImagedTask> tasks;
  tasks.push_back(sample::imaged(100));
  tasks.push_back(sample::imaged(200));
  tasks[1].task.process.parent = 100;
  const sample::Contents contents;
  const auto written = image::write_image(scratch / "tree", std::move(tasks), contents);
  ASSERT_TRUE(written.has_value()) << written.error().text();
  const auto source = image::open_directory(scratch / "tree");
  ASSERT_TRUE(source.has_value());
  const auto image = image::read_whole_image(**source);
  ASSERT_FALSE(image.has_value());  // two tasks with sockets of one number each: they would have to share them
  EXPECT_THAT(image.error().text(), HasSubstr("is there twice"));
}

TEST(Image, WhatCannotBeSaidIsRefused) {
  const auto refusal = [](model::FileObject object) {
    const sample::Scratch scratch;
    std::vector<image::ImagedTask> tasks;
    tasks.push_back(sample::imaged());
    tasks[0].descriptors.open_files[0].object = std::move(object);
    const auto written = image::write_image(scratch / "image", std::move(tasks), sample::Contents());
    EXPECT_TRUE(std::filesystem::is_empty(scratch / ""));
    return written.has_value() ? std::string() : written.error().text();
  };
  EXPECT_THAT(refusal(model::NamedPipe{.path = "/tmp/fifo", .identity = {1, 5}}), HasSubstr("named pipe /tmp/fifo"));
  model::Socket socket;
  socket.family = AF_UNIX;
  socket.type = SOCK_STREAM;
  socket.unread.push_back({.bytes = sample::bytes("x"), .from = {}, .files = {1}});
  EXPECT_THAT(refusal(socket), HasSubstr("carries open files"));
  EXPECT_THAT(refusal(model::UnhandledFile{.what = "a strange file"}), HasSubstr("a strange file"));
}

TEST(Image, NothingIsLeftOfAWriteThatFails) {
  const sample::Contents contents;
  for (std::uint64_t at = 0;; ++at) {
    const sample::Scratch scratch;
    std::vector<image::ImagedTask> tasks;
    tasks.push_back(sample::imaged());
    arm_faults({FaultPlan::Action::fail, at});
    const auto written = image::write_image(scratch / "image", std::move(tasks), contents);
    const bool passed = faults_passed() <= at;
    arm_faults({});
    EXPECT_EQ(written.has_value(), passed);
    EXPECT_EQ(std::filesystem::exists(scratch / "image"), passed) << at;
    EXPECT_FALSE(std::filesystem::exists(scratch / "image.partial")) << at;
    if (passed) break;
    ASSERT_LT(at, 100U);
  }
}

TEST(Image, APlaceThatIsTakenIsLeftAlone) {
  const sample::Scratch scratch;
  std::filesystem::create_directory(scratch / "empty");
  std::filesystem::create_directory(scratch / "full");
  std::ofstream(scratch / "full/mine") << "x";
  const sample::Contents contents;
  for (const bool empty : {true, false}) {
    std::vector<image::ImagedTask> tasks;
    tasks.push_back(sample::imaged());
    const auto written = image::write_image(scratch / (empty ? "empty" : "full"), std::move(tasks), contents);
    EXPECT_EQ(written.has_value(), empty);
  }
  EXPECT_TRUE(std::filesystem::exists(scratch / "full/mine"));
}

TEST(Image, PagesOfAParent) {
  sample::Files files = sample::files();
  // The child says that the heap's first page is in the parent, zeros for the second, and has the third itself.
  std::string map(reinterpret_cast<const char*>(files["pagemap-100.img"].data()), 8);
  const auto entry = [&](const std::string& made) {
    const auto size = static_cast<std::uint32_t>(made.size());
    map.append(reinterpret_cast<const char*>(&size), sizeof size);
    map += made;
  };
  std::string head("\x08\x09", 2);  // pages_id 9
  entry(head);
  const auto run = [](std::uint64_t address, unsigned pages, unsigned flags) {
    std::string made("\x08", 1);
    for (; address >= 0x80; address >>= 7) made += static_cast<char>((address & 0x7f) | 0x80);
    made += static_cast<char>(address);
    made += {'\x10', static_cast<char>(pages), '\x20', static_cast<char>(flags)};
    return made;
  };
  entry(run(sample::kHeap, 1, 1));
  entry(run(sample::kHeap + kPageSize, 1, 0));
  entry(run(sample::kHeap + 4 * kPageSize, 1, 4));
  for (const char* name : {"pagemap-100.img", "inventory.img"}) files[std::string("parent/") + name] = files[name];
  for (auto& [name, bytes] : sample::Files(files))
    if (name.starts_with("pages-")) files["parent/" + name] = bytes;
  files["pagemap-100.img"] = sample::bytes(map);
  files["pages-9.img"] = sample::Contents::page(7);
  {
    const auto [findings, image] = read(files);
    EXPECT_THAT(texts(findings), ::testing::IsEmpty());
    const auto& pages = image.tasks[0].pages;
    EXPECT_EQ(page_of(image, pages, sample::kHeap), sample::Contents::page(sample::kHeap));
    EXPECT_EQ(page_of(image, pages, sample::kHeap + kPageSize), std::vector<std::byte>(kPageSize));
    EXPECT_EQ(page_of(image, pages, sample::kHeap + 4 * kPageSize), sample::Contents::page(7));
  }
  std::erase_if(files, [](const auto& file) { return file.first.starts_with("parent/"); });
  EXPECT_THAT(texts(read(files).findings), Contains(HasSubstr("there is none")));
}

// Hostile images, each with what is said about it.

struct Hostile {
  const char* name;
  sample::Files files;
  const char* said;
};

std::vector<Hostile> hostile() {
  using image::FileKind;
  namespace pb = image::pb;
  const auto map = [](const std::function<void(pb::Memory&)>& change) {
    return edited<pb::Memory>(FileKind::mm, 100, change);
  };
  const auto core = [](const std::function<void(pb::Core&)>& change) {
    return edited<pb::Core>(FileKind::core, 100, change);
  };
  const auto file = [](const std::function<void(pb::File&)>& change) {
    return edited<pb::File>(FileKind::files, 0, change);
  };
  const auto tree = [](const std::function<void(pb::TreeEntry&)>& change) {
    return edited<pb::TreeEntry>(FileKind::pstree, 0, change);
  };
  std::vector<Hostile> all;
  all.push_back({"overlap", map([](auto& m) { m.mutable_mappings(1)->set_begin(m.mappings(0).begin()); }),
                 "overlaps the one before"});
  all.push_back({"kernel addresses", map([](auto& m) { m.mutable_mappings(2)->set_end(0xffffffff81000000); }),
                 "reaches into the kernel's addresses"});
  all.push_back({"near 2^64", map([](auto& m) { m.mutable_mappings(2)->set_end(~0ULL << 12); }),
                 "reaches into the kernel's addresses"});
  all.push_back({"backwards", map([](auto& m) { m.mutable_mappings(2)->set_end(0x1000); }), "is empty"});
  all.push_back({"half a page", map([](auto& m) { m.mutable_mappings(2)->set_begin(m.mappings(2).begin() + 8); }),
                 "is not made of whole pages"});
  all.push_back({"offset", map([](auto& m) { m.mutable_mappings(0)->set_offset(~0xfffULL); }), "in its file"});
  all.push_back({"no such file", map([](auto& m) { m.mutable_mappings(0)->set_object(9999); }),
                 "file 9999, which is not in files.img"});
  all.push_back({"protection", map([](auto& m) { m.mutable_mappings(0)->set_protection(0x1000007); }), "protection"});
  all.push_back({"layout", map([](auto& m) { m.set_brk(0xffff800000000000); }), "is the kernel's"});
  all.push_back({"executable", map([](auto& m) { m.set_executable(12345); }), "the executable is file 12345"});
  all.push_back(
      {"pages in no mapping", map([](auto& m) { m.mutable_mappings()->DeleteSubrange(2, 1); }), "are in no mapping"});
  all.push_back({"another architecture", core([](auto& c) { c.set_machine(3); }), "another architecture"});
  all.push_back({"a program of 32 bits", core([](auto& c) { c.mutable_x86()->mutable_registers()->set_mode(2); }),
                 "32-bit program"});
  all.push_back({"kernel rip", core([](auto& c) { c.mutable_x86()->mutable_registers()->set_ip(~0ULL); }),
                 "instruction pointer 0xffffffffffffffff is the kernel's"});
  all.push_back(
      {"kernel segments", core([](auto& c) { c.mutable_x86()->mutable_registers()->set_cs(0x10); }), "segments"});
  all.push_back({"short signal",
                 core([](auto& c) { c.mutable_thread()->mutable_pending()->mutable_signals(0)->set_info("x"); }),
                 "a queued signal has 1 bytes"});
  all.push_back({"signal 0", core([](auto& c) {
                   c.mutable_thread()->mutable_pending()->mutable_signals(0)->set_info(std::string(128, '\0'));
                 }),
                 "signal 0 is queued"});
  all.push_back({"timer", core([](auto& c) { c.mutable_task()->mutable_timers()->mutable_real()->set_left_s(~0ULL); }),
                 "a timer of"});
  all.push_back({"limits", core([](auto& c) { c.mutable_task()->mutable_limits()->clear_limits(); }), "has 0 limits"});
  all.push_back({"state", core([](auto& c) { c.mutable_task()->set_state(77); }), "core-100.img"});
  all.push_back({"a name that is too long", core([](auto& c) { c.mutable_thread()->set_name(std::string(400, 'x')); }),
                 "a name of 400 bytes"});
  all.push_back({"its own parent", tree([](auto& t) { t.set_parent(t.pid()); }), "does not stand before it"});
  all.push_back({"pid 0", tree([](auto& t) { t.set_pid(0); }), "pid 0"});
  all.push_back({"a thread twice", tree([](auto& t) { t.add_threads(101); }), "thread 101 is there twice"});
  all.push_back({"a thread of nobody", tree([](auto& t) { t.add_threads(4711); }), "core-4711.img: is missing"});
  all.push_back({"a path that climbs", file([](auto& f) {
                   if (f.has_regular()) f.mutable_regular()->set_path("/tmp/../etc/shadow");
                 }),
                 "path climbs"});
  all.push_back({"a path that is relative", file([](auto& f) {
                   if (f.has_regular()) f.mutable_regular()->set_path("etc/shadow");
                 }),
                 "not absolute"});
  all.push_back({"no such type", file([](auto& f) { f.set_type(999); }), "file of type 999"});
  all.push_back({"another type", file([](auto& f) {
                   if (f.has_pipe()) f.set_type(1);
                 }),
                 "is said to be a file, and is none"});
  all.push_back({"another id inside", file([](auto& f) {
                   if (f.has_pipe()) f.mutable_pipe()->set_id(5000);
                 }),
                 "has the id 5000 inside"});
  all.push_back({"a peer that is missing", file([](auto& f) {
                   if (f.has_unix_socket()) f.mutable_unix_socket()->set_peer(3);
                 }),
                 "the socket's peer 3 is not there"});
  all.push_back({"an address of three words", file([](auto& f) {
                   if (f.has_inet()) f.mutable_inet()->add_local(1);
                 }),
                 "addresses of 2 and 1 words"});
  all.push_back({"a port", file([](auto& f) {
                   if (f.has_inet()) f.mutable_inet()->set_local_port(70000);
                 }),
                 "ports 70000"});
  all.push_back({"a file handle", file([](auto& f) {
                   if (f.has_inotify()) f.mutable_inotify()->mutable_watches(0)->mutable_handle()->set_bytes(1 << 30);
                 }),
                 "a file handle of"});
  all.push_back({"a descriptor twice", edited<pb::Descriptor>(FileKind::fdinfo, 2, [](auto& d) { d.set_fd(3); }),
                 "descriptor 3 is there twice"});
  all.push_back({"a descriptor of nothing",
                 edited<pb::Descriptor>(FileKind::fdinfo, 2, [](auto& d) { d.set_file(777); }), "leads to file 777"});
  all.push_back({"a negative descriptor", edited<pb::Descriptor>(FileKind::fdinfo, 2, [](auto& d) { d.set_fd(~0U); }),
                 "descriptor 4294967295"});
  all.push_back({"a lock",
                 edited<pb::FileLock>(FileKind::locks, 0,
                                      [](auto& l) {
                                        l.set_start(5);
                                        l.set_length(0x7fffffffffffffff);
                                      }),
                 "a lock of"});
  all.push_back({"a version", edited<pb::Inventory>(FileKind::inventory, 0, [](auto& i) { i.set_version(9); }),
                 "version 9 is not known"});
  sample::Files missing = sample::files();
  missing.erase("inventory.img");
  all.push_back({"no inventory", missing, "inventory.img: is missing"});
  missing = sample::files();
  missing.erase("ghost-file-1.img");
  all.push_back({"no ghost", missing, "ghost-file-1.img: is missing"});
  sample::Files pages = sample::files();
  for (auto& [name, bytes] : pages)
    if (name.starts_with("pages-") && !bytes.empty()) bytes.resize(bytes.size() - 1);
  all.push_back({"pages that are short", pages, "says that there are"});
  return all;
}

TEST(Image, WhatIsHostileIsNamed) {
  for (const Hostile& one : hostile()) {
    const auto [findings, image] = read(one.files);
    EXPECT_THAT(texts(findings), Contains(HasSubstr(one.said))) << one.name;
  }
}

// However a file is cut, reading ends, and says so wherever it can be told.
TEST(Image, TruncatedFilesAreRead) {
  const sample::Files whole = sample::files();
  for (const auto& [name, bytes] : whole) {
    for (std::size_t keep = 0; keep < bytes.size(); keep += bytes.size() > 600 ? 37 : 1) {
      sample::Files cut = whole;
      cut[name].resize(keep);
      const auto [findings, image] = read(cut);
      if (name.starts_with("core-") || name.starts_with("mm-") || name.starts_with("inventory")) {
        EXPECT_TRUE(findings.any_damage()) << name << " cut to " << keep;
      }
    }
  }
}

TEST(Image, FlippedBitsHarmNobody) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937 random(seed);
  const sample::Files whole = sample::files();
  std::vector<std::string> names;
  for (const auto& [name, bytes] : whole)
    if (!bytes.empty()) names.push_back(name);
  for (int round = 0; round < 3000; ++round) {
    sample::Files broken = whole;
    for (int flips = 0; flips < 3; ++flips) {
      auto& bytes = broken[names[random() % names.size()]];
      bytes[random() % bytes.size()] ^= static_cast<std::byte>(1U << random() % 8);
    }
    const auto [findings, image] = read(broken);
    if (findings.any_damage() || image.tasks.empty()) continue;
    // What is called whole can be looked at, to its last page.
    for (const image::PageRun& run : image.tasks[0].pages) {
      std::vector<std::byte> page(kPageSize);
      EXPECT_TRUE(image.page_files.read(run, run.pages - 1, page).has_value());
    }
  }
}

TEST(Image, LengthsThatLieAreRefusedUnread) {
  sample::Files files = sample::files();
  const std::uint32_t huge = 0xfffffff0;
  std::memcpy(files["files.img"].data() + 8, &huge, sizeof huge);
  EXPECT_THAT(texts(read(files).findings), Contains(HasSubstr("files.img, entry 0: wants 4294967280 bytes")));
  // Many empty messages in few bytes.
  auto& memory = files["mm-100.img"];
  memory.resize(8);
  const std::uint32_t size = 4U << 20;
  memory.insert(memory.end(), reinterpret_cast<const std::byte*>(&size),
                reinterpret_cast<const std::byte*>(&size) + sizeof size);
  for (std::uint32_t i = 0; i < size; i += 2) {
    memory.push_back(std::byte{0x72});
    memory.push_back(std::byte{0});
  }
  EXPECT_THAT(texts(read(files).findings), Contains(HasSubstr("fields")));
}

TEST(Image, ACoreFileHasThreadsAndMemory) {
  const sample::Scratch scratch;
  const sample::Files files = sample::files();
  const auto [findings, image] = read(files);
  ASSERT_EQ(image.tasks.size(), 1U);
  const auto written = image::write_core(image, image.tasks[0], scratch / "core");
  ASSERT_TRUE(written.has_value()) << written.error().text();
  EXPECT_FALSE(image::write_core(image, image.tasks[0], scratch / "core").has_value());  // it is there
  EXPECT_GT(std::filesystem::file_size(scratch / "core"), 16 * kPageSize);
}

}  // namespace
}  // namespace relive
