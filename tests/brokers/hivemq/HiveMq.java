// Starts HiveMQ CE inside this process: java -cp 'lib/*' HiveMq.java CONFIGURATION DATA EXTENSIONS. It ends with its standard input.
import com.hivemq.embedded.EmbeddedHiveMQ;
import java.nio.file.Path;

public class HiveMq {
    public static void main(String[] folders) throws Exception {
        try (EmbeddedHiveMQ broker = EmbeddedHiveMQ.builder()
                .withConfigurationFolder(Path.of(folders[0]))
                .withDataFolder(Path.of(folders[1]))
                .withExtensionsFolder(Path.of(folders[2]))
                .build()) {
            broker.start().join();
            System.out.println("ready");
            while (System.in.read() >= 0) {
            }
            broker.stop().join();
        }
        System.exit(0);
    }
}
