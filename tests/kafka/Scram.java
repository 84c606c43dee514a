import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ScramCredentialInfo;
import org.apache.kafka.clients.admin.ScramMechanism;
import org.apache.kafka.clients.admin.UserScramCredentialAlteration;
import org.apache.kafka.clients.admin.UserScramCredentialUpsertion;

/** Makes users for SCRAM-SHA-512: Scram BOOTSTRAP PASSWORD USER ... */
public class Scram {
    public static void main(String[] arguments) throws Exception {
        List<UserScramCredentialAlteration> all = new ArrayList<>();
        for (int at = 2; at < arguments.length; at++) {
            all.add(new UserScramCredentialUpsertion(arguments[at],
                new ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), arguments[1]));
        }
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", arguments[0]))) {
            admin.alterUserScramCredentials(all).all().get();
        }
    }
}
