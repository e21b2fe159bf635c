import java.nio.file.Path;
import java.time.Duration;
import org.neo4j.configuration.GraphDatabaseSettings;
import org.neo4j.configuration.connectors.BoltConnector;
import org.neo4j.configuration.connectors.HttpConnector;
import org.neo4j.configuration.helpers.SocketAddress;
import org.neo4j.dbms.api.DatabaseManagementService;
import org.neo4j.dbms.api.DatabaseManagementServiceBuilder;

/** A genuine Neo4j server for tests: HOME and PORT as arguments; stops when its input ends. */
public class Neo4jServer {
    public static void main(String[] arguments) throws Exception {
        DatabaseManagementService service =
                new DatabaseManagementServiceBuilder(Path.of(arguments[0]))
                        .setConfig(BoltConnector.enabled, true)
                        .setConfig(
                                BoltConnector.listen_address,
                                new SocketAddress("localhost", Integer.parseInt(arguments[1])))
                        .setConfig(HttpConnector.enabled, false)
                        .setConfig(GraphDatabaseSettings.auth_enabled, true)
                        .setConfig(GraphDatabaseSettings.auth_max_failed_attempts, 0)
                        .setConfig(
                                GraphDatabaseSettings.pagecache_memory,
                                Long.getLong("pagecache.mib", 256) << 20)
                        .build();
        Runtime.getRuntime().addShutdownHook(new Thread(service::shutdown));
        System.out.println("started");
        // The parent holds the other end: when it dies, however it dies, read() returns -1.
        while (System.in.read() != -1) {}
        System.exit(0);
    }
}
