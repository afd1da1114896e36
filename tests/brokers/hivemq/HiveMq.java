// Starts HiveMQ CE inside this process: java -cp 'lib/*' HiveMq.java CONFIGURATION DATA EXTENSIONS [CREDENTIALS]. It ends with its
// standard input. CREDENTIALS is a credentials.xml of the File RBAC extension, which no registry has: what its manual says of users,
// roles, permissions and hashed passwords is done here, and HiveMQ itself enforces the permissions.
import com.hivemq.embedded.EmbeddedExtension;
import com.hivemq.embedded.EmbeddedHiveMQ;
import com.hivemq.extension.sdk.api.ExtensionMain;
import com.hivemq.extension.sdk.api.auth.SimpleAuthenticator;
import com.hivemq.extension.sdk.api.auth.parameter.SimpleAuthInput;
import com.hivemq.extension.sdk.api.auth.parameter.SimpleAuthOutput;
import com.hivemq.extension.sdk.api.auth.parameter.TopicPermission;
import com.hivemq.extension.sdk.api.packets.auth.DefaultAuthorizationBehaviour;
import com.hivemq.extension.sdk.api.packets.connect.ConnackReasonCode;
import com.hivemq.extension.sdk.api.parameter.ExtensionStartInput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStartOutput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStopInput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStopOutput;
import com.hivemq.extension.sdk.api.services.Services;
import com.hivemq.extension.sdk.api.services.builder.Builders;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import javax.crypto.SecretKeyFactory;
import javax.crypto.spec.PBEKeySpec;
import javax.xml.parsers.DocumentBuilderFactory;
import org.w3c.dom.Document;
import org.w3c.dom.Element;
import org.w3c.dom.NodeList;

public class HiveMq {
    public static void main(String[] given) throws Exception {
        var builder = EmbeddedHiveMQ.builder()
                .withConfigurationFolder(Path.of(given[0]))
                .withDataFolder(Path.of(given[1]))
                .withExtensionsFolder(Path.of(given[2]));
        if (given.length > 3) {
            builder = builder.withEmbeddedExtension(EmbeddedExtension.builder()
                    .withId("credentials").withName("credentials").withVersion("1")
                    .withExtensionMain(new Credentials(Path.of(given[3]))).build());
        }
        try (EmbeddedHiveMQ broker = builder.build()) {
            broker.start().join();
            System.out.println("ready");
            while (System.in.read() >= 0) {
            }
            broker.stop().join();
        }
        System.exit(0);
    }
}

class Credentials implements ExtensionMain, SimpleAuthenticator {
    private final Document file;

    Credentials(Path path) throws Exception {
        file = DocumentBuilderFactory.newInstance().newDocumentBuilder().parse(path.toFile());
    }

    @Override
    public void extensionStart(ExtensionStartInput input, ExtensionStartOutput output) {
        Services.securityRegistry().setAuthenticatorProvider(each -> this);
    }

    @Override
    public void extensionStop(ExtensionStopInput input, ExtensionStopOutput output) {
    }

    @Override
    public void onConnect(SimpleAuthInput input, SimpleAuthOutput output) {
        String name = input.getConnectPacket().getUserName().orElse("");
        String client = input.getClientInformation().getClientId();
        ByteBuffer password = input.getConnectPacket().getPassword().orElse(ByteBuffer.allocate(0));
        boolean wild = (name + client).matches(".*[#+].*");
        for (Element user : all(file.getDocumentElement(), "user")) {
            if (!wild && text(user, "name").equals(name) && fits(text(user, "password"), password)) {
                for (Element role : all(user, "id")) {
                    output.getDefaultPermissions().addAll(permissions(role.getTextContent(), name, client));
                }
                output.getDefaultPermissions().setDefaultBehaviour(DefaultAuthorizationBehaviour.DENY);
                output.authenticateSuccessfully();
                return;
            }
        }
        output.failAuthentication(ConnackReasonCode.NOT_AUTHORIZED, "invalid credentials");
    }

    private List<TopicPermission> permissions(String id, String name, String client) {
        List<TopicPermission> found = new ArrayList<>();
        for (Element role : all(file.getDocumentElement(), "role")) {
            if (text(role, "id").equals(id)) {
                for (Element each : all(role, "permission")) {
                    String topic = text(each, "topic").replace("${{username}}", name).replace("${{clientid}}", client);
                    found.add(Builders.topicPermission().topicFilter(topic)
                            .activity(TopicPermission.MqttActivity.valueOf(text(each, "activity"))).build());
                }
            }
        }
        return found;
    }

    private static boolean fits(String written, ByteBuffer password) {
        String[] parts = written.split(":");
        byte[] salt = Base64.getDecoder().decode(parts[0]), wanted = Base64.getDecoder().decode(parts[2]);
        char[] given = StandardCharsets.UTF_8.decode(password).toString().toCharArray();
        if (given.length == 0) {
            return false;
        }
        try {
            PBEKeySpec spec = new PBEKeySpec(given, salt, Integer.parseInt(parts[1]), 512);
            return MessageDigest.isEqual(wanted,
                    SecretKeyFactory.getInstance("PBKDF2WithHmacSHA512").generateSecret(spec).getEncoded());
        } catch (Exception error) {
            throw new IllegalStateException(error);
        }
    }

    private static List<Element> all(Element above, String name) {
        NodeList nodes = above.getElementsByTagName(name);
        List<Element> found = new ArrayList<>();
        for (int number = 0; number < nodes.getLength(); number++) {
            found.add((Element) nodes.item(number));
        }
        return found;
    }

    private static String text(Element above, String name) {
        return all(above, name).get(0).getTextContent();
    }
}
