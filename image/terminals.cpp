// Terminals. CRIU knows struct termios; relive keeps struct termios2, which has speeds too.
#include <fmt/format.h>

#include <charconv>
#include <cstring>
#include <string_view>
#include <utility>

#include "image/files.h"

namespace relive::image::kinds {

namespace {

constexpr std::uint32_t kPseudo = 1;  // pb::Terminal.type
constexpr std::uint32_t kConsole = 2;
constexpr std::uint32_t kVirtual = 3;
constexpr std::uint32_t kControlling = 4;
constexpr std::uint32_t kExternal = 5;
constexpr std::uint32_t kSerial = 6;

constexpr std::size_t kCharacters = 19;  // NCCS of the kernel (asm-generic/termbits.h)
constexpr std::string_view kSlaves = "/dev/pts/";

// struct termios2: four words of flags, the discipline, the characters, two words of speeds.
constexpr std::size_t kDisciplineAt = 16;
constexpr std::size_t kCharactersAt = 17;
constexpr std::size_t kSpeedsAt = 36;

// pb::ExtraTerminal.flags
enum Flag : std::uint32_t {
  kMaster = 1,
  kInside = 2,
  kHungUp = 4,
  kIsControlling = 8,
  kForeground = 16,
  kStatusPending = 32,
};

std::uint32_t word_at(const model::TerminalModes& modes, std::size_t at) {
  std::uint32_t word = 0;
  std::memcpy(&word, modes.data() + at, sizeof word);
  return word;
}

std::uint32_t type_of(const model::Terminal& terminal) {
  const std::uint64_t major = terminal.device >> 8 & 0xfff;
  if (major >= 136 && major <= 143) return kPseudo;  // devices.txt
  if (major == 5) return terminal.path == "/dev/tty" ? kControlling : kConsole;
  if (major == 4) return (terminal.device & 0xff) < 64 ? kVirtual : kSerial;
  return kExternal;
}

void modes_to(const model::TerminalModes& from, pb::Modes& to) {
  to.set_input(word_at(from, 0));
  to.set_output(word_at(from, 4));
  to.set_control(word_at(from, 8));
  to.set_local(word_at(from, 12));
  to.set_discipline(std::to_integer<std::uint32_t>(from[kDisciplineAt]));
  to.set_input_speed(word_at(from, kSpeedsAt));
  to.set_output_speed(word_at(from, kSpeedsAt + 4));
  for (std::size_t i = 0; i < kCharacters; ++i)
    to.add_characters(std::to_integer<std::uint32_t>(from[kCharactersAt + i]));
}

model::TerminalModes modes_from(const pb::Modes& from) {
  model::TerminalModes to{};
  const auto put = [&](std::size_t at, std::uint32_t word) { std::memcpy(to.data() + at, &word, sizeof word); };
  put(0, from.input());
  put(4, from.output());
  put(8, from.control());
  put(12, from.local());
  to[kDisciplineAt] = static_cast<std::byte>(from.discipline());
  put(kSpeedsAt, from.input_speed());
  put(kSpeedsAt + 4, from.output_speed());
  for (std::size_t i = 0; i < kCharacters && static_cast<int>(i) < from.characters_size(); ++i)
    to[kCharactersAt + i] = static_cast<std::byte>(from.characters(static_cast<int>(i)));
  return to;
}

}  // namespace

void terminal_to(const model::OpenFile& open, const model::Terminal& terminal, const model::Process& process,
                 FileWriting& out, File& file, pb::ExtraFile& extra) {
  const auto device = static_cast<std::uint32_t>(terminal.device);
  file.set_type(static_cast<std::uint32_t>(FileType::terminal));
  pb::TerminalFile& made = *file.mutable_terminal();
  made.set_id(file.id());
  made.set_terminal(device == 0 ? file.id() : device << 1 | (terminal.master ? 1 : 0));
  made.set_flags(flags_to(open));
  owner_to(open, *made.mutable_owner());
  made.set_file(out.named(terminal.path, 0, 0));

  extra.set_device(terminal.identity.device);
  extra.set_inode(terminal.identity.inode);
  extra.set_device_number(terminal.device);
  pb::ExtraTerminal& more = *extra.mutable_terminal();
  more.set_path(terminal.path);
  more.set_created(terminal.created);
  more.set_modes(std::string(reinterpret_cast<const char*>(terminal.modes.data()), terminal.modes.size()));
  more.set_discipline(terminal.discipline);
  more.set_flags((terminal.master ? kMaster : 0U) | (terminal.inside ? kInside : 0U) |
                 (terminal.hung_up ? kHungUp : 0U) | (terminal.controlling ? kIsControlling : 0U) |
                 (terminal.foreground ? kForeground : 0U) | (terminal.status_pending ? kStatusPending : 0U));
  more.set_unread(terminal.unread);
  more.set_front(terminal.front);

  if (out.parts.terminals.contains(made.terminal())) return;
  pb::Terminal& info = out.parts.terminals[made.terminal()];
  info.set_id(made.terminal());
  info.set_type(type_of(terminal));
  info.set_locked(terminal.locked);
  info.set_exclusive(terminal.exclusive);
  info.set_packets(terminal.packets);
  info.set_session(terminal.controlling ? static_cast<std::uint32_t>(process.session) : 0);
  info.set_group(terminal.foreground ? static_cast<std::uint32_t>(process.group) : 0);
  info.set_device(device);
  if (!terminal.hung_up) {
    modes_to(terminal.modes, *info.mutable_modes());
    pb::Window& window = *info.mutable_window();
    window.set_rows(terminal.window.rows);
    window.set_columns(terminal.window.columns);
    window.set_width(terminal.window.width);
    window.set_height(terminal.window.height);
  }
  if (info.type() == kPseudo)
    info.mutable_pseudo()->set_index(
        static_cast<std::uint32_t>((terminal.device & 0xff) | (terminal.device >> 12 & ~0xffULL)));
}

model::FileObject terminal_from(const File& file, const pb::ExtraFile* extra, const FileReading& in,
                                model::OpenFile& open) {
  const pb::TerminalFile& from = file.terminal();
  open.status_flags = from.flags();
  owner_from(from.owner(), open);
  model::Terminal terminal;
  const auto at = in.parts.terminals.find(from.terminal());
  if (at == in.parts.terminals.end()) {
    in.damaged(file.id(), fmt::format("terminal {:#x} is not in {}", from.terminal(), file_name(FileKind::terminals)));
    return terminal;
  }
  const pb::Terminal& info = at->second;
  terminal.device = info.device();
  terminal.locked = info.locked();
  terminal.exclusive = info.exclusive();
  terminal.packets = info.packets();
  terminal.controlling = info.session() != 0;
  terminal.foreground = info.group() != 0;
  terminal.front = static_cast<std::int32_t>(info.group());
  if (info.has_modes()) terminal.modes = modes_from(info.modes());
  terminal.discipline = static_cast<std::int32_t>(info.modes().discipline());
  const auto narrow = [](std::uint32_t value) { return static_cast<std::uint16_t>(value); };
  terminal.window = {narrow(info.window().rows()), narrow(info.window().columns()), narrow(info.window().width()),
                     narrow(info.window().height())};
  const auto path = in.parts.files.find(from.file());
  if (from.has_file() && path != in.parts.files.end() && path->second.has_regular())
    terminal.path = path->second.regular().path();
  else if (info.has_pseudo())
    terminal.path = fmt::format("{}{}", kSlaves, info.pseudo().index());
  terminal.master = terminal.path.ends_with("/ptmx");
  if (extra == nullptr || !extra->has_terminal() || extra->terminal().path() != terminal.path) return terminal;
  const pb::ExtraTerminal& more = extra->terminal();
  terminal.identity = {extra->device(), extra->inode()};
  terminal.created = more.created();
  if (static_cast<std::uint32_t>(extra->device_number()) == info.device()) terminal.device = extra->device_number();
  const std::uint32_t flags = more.flags();
  terminal.master = (flags & kMaster) != 0;
  terminal.inside = (flags & kInside) != 0;
  terminal.hung_up = (flags & kHungUp) != 0;
  terminal.controlling = (flags & kIsControlling) != 0;
  terminal.foreground = (flags & kForeground) != 0;
  terminal.status_pending = (flags & kStatusPending) != 0;
  terminal.unread = more.unread();
  terminal.front = more.has_front() ? more.front() : static_cast<std::int32_t>(info.group());
  terminal.discipline = more.discipline();
  model::TerminalModes modes{};
  if (more.modes().size() == modes.size()) {
    std::memcpy(modes.data(), more.modes().data(), modes.size());
    // What is at the end of termios2 goes with what the entry says, unless the entry was edited.
    pb::Modes said;
    modes_to(modes, said);
    if (!info.has_modes() || said.SerializePartialAsString() == info.modes().SerializePartialAsString())
      terminal.modes = modes;
  }
  return terminal;
}

}  // namespace relive::image::kinds
