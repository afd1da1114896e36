// Starts ActiveMQ Artemis inside this process: java -cp 'lib/*' Artemis.java PORT FOLDER. It ends with its standard input.
import org.apache.activemq.artemis.core.config.impl.ConfigurationImpl;
import org.apache.activemq.artemis.core.server.JournalType;
import org.apache.activemq.artemis.core.server.embedded.EmbeddedActiveMQ;

public class Artemis {
    public static void main(String[] given) throws Exception {
        var configuration = new ConfigurationImpl();
        configuration.setSecurityEnabled(false).setJMXManagementEnabled(false).setJournalType(JournalType.NIO);
        configuration.setJournalDirectory(given[1] + "/journal").setBindingsDirectory(given[1] + "/bindings");
        configuration.setPagingDirectory(given[1] + "/paging").setLargeMessagesDirectory(given[1] + "/large");
        configuration.addAcceptorConfiguration("mqtt", "tcp://127.0.0.1:" + given[0] + "?protocols=MQTT");
        var broker = new EmbeddedActiveMQ().setConfiguration(configuration);
        broker.start();
        while (System.in.read() >= 0) {
        }
        broker.stop();
        System.exit(0);
    }
}
