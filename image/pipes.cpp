// Ends of pipes, and what is unread in them.
#include <fcntl.h>
#include <fmt/format.h>

#include "image/files.h"

namespace relive::image::kinds {

void pipe_to(const model::OpenFile& open, const model::PipeEnd& pipe, FileWriting& out, File& file,
             pb::ExtraFile& extra) {
  file.set_type(static_cast<std::uint32_t>(FileType::pipe));
  pb::Pipe& made = *file.mutable_pipe();
  made.set_id(file.id());
  made.set_pipe(static_cast<std::uint32_t>(pipe.identity.inode));
  made.set_flags(flags_to(open));
  owner_to(open, *made.mutable_owner());
  extra.set_device(pipe.identity.device);
  extra.set_inode(pipe.identity.inode);
  if (pipe.outside) extra.set_outside(true);
  for (const model::PipePiece& piece : pipe.pieces) {
    pb::ExtraPiece& entry = *extra.add_pieces();
    entry.set_bytes(piece.bytes);
    entry.set_packet(piece.packet);
  }
  // The read end knows what is unread; several open files of it tell the same.
  if (pipe.write_end && out.parts.pipes.contains(made.pipe())) return;
  PipeContents& contents = out.parts.pipes[made.pipe()];
  contents.capacity = pipe.capacity;
  if (!pipe.write_end) contents.bytes = pipe.bytes;
}

model::FileObject pipe_from(const File& file, const pb::ExtraFile* extra, const FileReading& in,
                            model::OpenFile& open) {
  const pb::Pipe& from = file.pipe();
  open.status_flags = from.flags();
  owner_from(from.owner(), open);
  model::PipeEnd pipe;
  pipe.identity.inode = from.pipe();
  pipe.write_end = (from.flags() & O_ACCMODE) == O_WRONLY;
  if (extra != nullptr && static_cast<std::uint32_t>(extra->inode()) == from.pipe()) {
    pipe.identity = {extra->device(), extra->inode()};
    pipe.outside = extra->outside();
  }
  const auto contents = in.parts.pipes.find(from.pipe());
  if (contents == in.parts.pipes.end()) return pipe;
  pipe.capacity = contents->second.capacity;
  if (pipe.capacity != 0 && contents->second.bytes.size() > pipe.capacity)
    in.damaged(file.id(), fmt::format("pipe {} holds {} bytes, and has room for {}", from.pipe(),
                                      contents->second.bytes.size(), pipe.capacity));
  if (pipe.write_end) return pipe;
  pipe.bytes = contents->second.bytes;
  if (extra == nullptr) return pipe;
  std::uint64_t total = 0;
  for (const pb::ExtraPiece& piece : extra->pieces()) total += piece.bytes();
  if (total == pipe.bytes.size())
    for (const pb::ExtraPiece& piece : extra->pieces()) pipe.pieces.push_back({piece.bytes(), piece.packet()});
  return pipe;
}

}  // namespace relive::image::kinds
