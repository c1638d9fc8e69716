package medallion;

import io.delta.storage.HadoopFileSystemLogStore;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileAlreadyExistsException;
import java.util.Arrays;
import java.util.Iterator;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FSDataOutputStreamBuilder;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.s3a.RemoteFileChangedException;
import org.apache.hadoop.io.IOUtils;

/**
 * Commits to S3 by PUT with If-None-Match: of several drivers, one makes a version of a table and the
 * others are told that it is taken. The log stores that come with Delta let both believe they made it.
 *
 * <p>Compiled by the Janino that comes with Spark, which knows no generics: hence the cast.
 */
public final class ConditionalPutLogStore extends HadoopFileSystemLogStore {
  public ConditionalPutLogStore(Configuration configuration) {
    super(configuration);
  }

  @Override
  public void write(Path path, Iterator<String> actions, Boolean overwrite, Configuration configuration)
      throws IOException {
    // All of it before the request: what ends early must not be a commit.
    ByteArrayOutputStream text = new ByteArrayOutputStream();
    while (actions.hasNext()) {
      text.write((((String) actions.next()) + "\n").getBytes(StandardCharsets.UTF_8));
    }
    byte[] commit = text.toByteArray();
    FileSystem files = path.getFileSystem(configuration);
    FSDataOutputStreamBuilder request = files.createFile(path).overwrite(true);
    if (!overwrite.booleanValue()) {
      request.must("fs.option.create.conditional.overwrite", true);
    }
    FSDataOutputStream file = (FSDataOutputStream) request.build();
    try {
      file.write(commit);
      file.close();
    } catch (RemoteFileChangedException taken) {
      // A request that was repeated because its answer was lost finds its own commit.
      if (!Arrays.equals(read(files, path), commit)) {
        throw (IOException) new FileAlreadyExistsException(path.toString()).initCause(taken);
      }
    }
  }

  @Override
  public Boolean isPartialWriteVisible(Path path, Configuration configuration) {
    return Boolean.FALSE;
  }

  private static byte[] read(FileSystem files, Path path) throws IOException {
    ByteArrayOutputStream found = new ByteArrayOutputStream();
    FSDataInputStream file = files.open(path);
    IOUtils.copyBytes(file, found, 65536, true);
    return found.toByteArray();
  }
}
